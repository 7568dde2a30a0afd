// SPDX-License-Identifier: Apache-2.0
// The hardware of the Generic Event Device (ACPI 6.4, section 5.6.9): it tells a guest of events of
// the machine, of which the power button is the only one. The registers are snapvm's own
// (vmm/platform/PLATFORM.md); the AML in vmm/boot/dsdt.cc drives them.
//
// The interrupt is level-triggered, so an event is not lost if it comes before the guest listens or
// if the machine is saved before the guest handles it.
#pragma once

#include "devices/base/stateful_device.h"

namespace snapvm {

struct GedStateV1 {
    static constexpr RecordKind kKind = RecordKind::ged;
    static constexpr std::uint16_t kVersion = 1;
    std::uint8_t status = 0;  ///< events that the guest has not acknowledged yet
    std::uint8_t enable = 0;  ///< events that raise the interrupt

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<GedStateV1> decode(std::span<const std::byte> bytes);
};

/// Two registers of one byte, with one bit for each event: status, in which a guest acknowledges
/// events by writing ones, and enable. Its lock is taken before the interrupt controller's.
class Ged final : public StatefulDevice<GedStateV1> {
public:
    Ged(const DeviceHost& host, std::uint32_t gsi) : host_(host), gsi_(gsi) {}

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    /// Presses the power button. Returns whether the guest has enabled the event; if it enables it
    /// later, it finds the button pressed. Any thread.
    bool press_power_button();

private:
    void change(GedStateV1 next);

    const DeviceHost host_;
    const std::uint32_t gsi_;
};

}  // namespace snapvm
