// SPDX-License-Identifier: Apache-2.0
// A saved state that was checked: what lies between a record's untrusted bytes and a device.
#pragma once

#include <memory>
#include <utility>

namespace snapvm {

/// The state of one device, checked by its `parse`. It does not change, so the device may adopt it
/// any number of times.
class ParsedState {
public:
    ParsedState() = default;
    ParsedState(const ParsedState&) = delete;
    ParsedState& operator=(const ParsedState&) = delete;
    virtual ~ParsedState() = default;
};

/// The parsed state of a device whose state is a `State`.
template <class State>
class Parsed final : public ParsedState {
public:
    explicit Parsed(State state) : state_(std::move(state)) {}
    static std::unique_ptr<const ParsedState> make(State state) {
        return std::make_unique<const Parsed>(std::move(state));
    }
    /// Returns the state in `parsed`. Ends the program if it is of another type: only a mistake of
    /// the caller mixes up the states of two devices.
    [[nodiscard]] static const State& of(const ParsedState& parsed) noexcept {
        return dynamic_cast<const Parsed&>(parsed).state_;
    }

private:
    const State state_;
};

}  // namespace snapvm
