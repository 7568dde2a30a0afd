// SPDX-License-Identifier: Apache-2.0
// A virtio device whose own state is one struct.
#pragma once

#include <memory>

#include "devices/virtio/device.h"

namespace snapvm::virtio {

/// Encodes, parses and adopts the struct `State`, which has
///   - `encode(out)`,
///   - `decode(in)`, which returns what it finds and leaves a malformed input to the Decoder.
template <class State>
class StatefulDevice : public Device {
public:
    void encode(Encoder& out) const final { state_.encode(out); }
    Result<std::unique_ptr<const ParsedState>> parse(Decoder& in) const final {
        State state = State::decode(in);
        if (Status valid = check(state); !valid) {
            return fail(std::move(valid).error());
        }
        return Parsed<State>::make(std::move(state));
    }
    void adopt(const ParsedState& parsed) noexcept final {
        state_ = Parsed<State>::of(parsed);
        adopted();
    }

protected:
    StatefulDevice() = default;
    explicit StatefulDevice(State state) : state_(std::move(state)) {}
    /// Fails with invalid if the device cannot be in this state, which is untrusted.
    [[nodiscard]] virtual Status check(const State& state) const = 0;
    /// Called when a state has been adopted: leaves nothing of the one before, as Device::adopt
    /// says.
    virtual void adopted() noexcept = 0;

    State state_;
};

}  // namespace snapvm::virtio
