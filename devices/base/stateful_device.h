// SPDX-License-Identifier: Apache-2.0
// A device whose whole state is one struct.
#pragma once

#include <memory>
#include <mutex>

#include "devices/base/device.h"

namespace snapvm {

/// Saves, parses and adopts the struct `State`, which has
///   - `kKind` and `kVersion`, those of its record,
///   - `encode()`, which returns the record's bytes,
///   - `decode(bytes)`, which fails with invalid unless they are a state that the device can be in.
template <class State>
class StatefulDevice : public Device {
public:
    [[nodiscard]] StateRecord save() const final { return {State::kKind, State::kVersion, 0, state().encode()}; }
    Result<std::unique_ptr<const ParsedState>> parse(const StateRecord& record) const final {
        Result<State> state = State::decode(record.bytes);
        if (!state) {
            return fail(std::move(state).error());
        }
        return Parsed<State>::make(*std::move(state));
    }
    void adopt(const ParsedState& parsed) noexcept final {
        const std::lock_guard lock(mutex_);
        state_ = Parsed<State>::of(parsed);
    }
    /// Returns a copy of the state. Any thread.
    [[nodiscard]] State state() const {
        const std::lock_guard lock(mutex_);
        return state_;
    }

protected:
    mutable std::mutex mutex_;  ///< guards state_
    State state_;
};

}  // namespace snapvm
