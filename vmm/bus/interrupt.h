// SPDX-License-Identifier: Apache-2.0
// How devices raise interrupts, without knowing what takes them.
#pragma once

#include <cstdint>
#include <span>

namespace snapvm {

/// Interrupt pins, numbered by GSI. Implemented by the interrupt controller; callable from any thread.
class InterruptSink {
public:
    virtual ~InterruptSink() = default;
    /// Drives the pin's level. Edge-triggered pins react to low -> high.
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

/// Takes what the interrupt controller sends to the LAPICs. Implemented by the machine on top of KVM; callable from any thread.
class MsiSink {
public:
    virtual ~MsiSink() = default;
    virtual void deliver(const MsiMessage& message) = 0;
    /// What each pin's message is now; needed where a level-triggered pin must hear of its EOI.
    virtual void set_routes(std::span<const MsiMessage> routes) = 0;
};

}  // namespace snapvm
