// SPDX-License-Identifier: Apache-2.0
// The hardware behind the Generic Event Device (ACPI 6.4, section 5.6.9): what happened to the machine that a guest should hear of, which
// is the power button so far. The registers are ours (vmm/platform/PLATFORM.md); vmm/boot/dsdt.cc has the AML that drives them.
//
// The interrupt is level-triggered: a button pressed before the guest listens, or in a machine that is saved just then, is not lost.
#pragma once

#include <memory>
#include <mutex>

#include "devices/device.h"

namespace snapvm {

struct GedStateV1 {
    static constexpr std::uint16_t kVersion = 1;
    std::uint8_t status = 0;  ///< events that have happened and that the guest has not acknowledged
    std::uint8_t enable = 0;  ///< events that raise the interrupt

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<GedStateV1> decode(std::span<const std::byte> bytes);
};

/// Two registers of a byte each, with a bit an event: status, which a guest acknowledges by writing ones, and enable.
class Ged final : public Device {
public:
    Ged(const DeviceHost& host, std::uint32_t gsi) : host_(host), gsi_(gsi) {}
    static Result<std::unique_ptr<Ged>> restore(const DeviceHost& host, std::uint32_t gsi, const StateRecord& record);

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;

    /// Any thread. Whether a guest is there that listens; one that comes later finds the button pressed.
    bool press_power_button();

private:
    void change(GedStateV1 next);

    const DeviceHost host_;
    const std::uint32_t gsi_;
    mutable std::mutex mutex_;  // taken before the interrupt controller's
    GedStateV1 state_;
};

}  // namespace snapvm
