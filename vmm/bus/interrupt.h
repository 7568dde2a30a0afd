// SPDX-License-Identifier: Apache-2.0
// The interfaces through which devices raise interrupts, whatever the interrupt controller is.
#pragma once

#include <cstdint>
#include <span>

namespace snapvm {

/// The interrupt pins, numbered by GSI. The interrupt controller implements it. Any thread may call
/// it.
class InterruptSink {
public:
    virtual ~InterruptSink() = default;
    /// Sets the pin's level. Edge-triggered pins react to low -> high.
    virtual void set_level(std::uint32_t gsi, bool high) = 0;

    void pulse(std::uint32_t gsi) {
        set_level(gsi, true);
        set_level(gsi, false);
    }
};

/// A message-signalled interrupt (Intel SDM volume 3, "Message Signalled Interrupts").
struct MsiMessage {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
    friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

/// Receives what the interrupt controller sends to the LAPICs. The machine implements it over KVM.
/// Any thread may call it.
class MsiSink {
public:
    virtual ~MsiSink() = default;
    virtual void deliver(const MsiMessage& message) = 0;
    /// Sets the message of each pin. KVM needs them to report the EOIs of level-triggered pins.
    virtual void set_routes(std::span<const MsiMessage> routes) = 0;
};

}  // namespace snapvm
