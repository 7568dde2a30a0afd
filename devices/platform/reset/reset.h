// SPDX-License-Identifier: Apache-2.0
// The registers by which a guest asks for a reboot or a power-off: the reset line of the keyboard
// controller (port 0x64), the reset control register (port 0xCF9; Intel ICH9 data sheet, section
// 13.7.5), and ACPI's sleep control and status registers (ACPI 6.4, section 4.8.3.7).
#pragma once

#include "devices/base/stateful_device.h"
#include "vmm/platform/platform.h"

namespace snapvm {

struct ResetStateV1 {
    static constexpr RecordKind kKind = RecordKind::reset;
    static constexpr std::uint16_t kVersion = 1;
    std::uint8_t reset_control = 0;  ///< last value written to 0xCF9 that did not ask for a reset

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<ResetStateV1> decode(std::span<const std::byte> bytes);
};

/// Answers three port ranges: this object is the reset control register; keyboard() and sleep() are
/// the two others.
class Reset final : public StatefulDevice<ResetStateV1> {
public:
    explicit Reset(const DeviceHost& host) : events_(host.events) {}

    /// The reset control register, port 0xCF9.
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    [[nodiscard]] BusDevice& keyboard() { return keyboard_; }
    [[nodiscard]] BusDevice& sleep() { return sleep_; }

private:
    // A write-only register. A write of one value at offset 0 makes the request; other writes do
    // nothing.
    class Trigger final : public BusDevice {
    public:
        Trigger(GuestEvents& events, std::uint8_t value, GuestRequest request)
            : events_(events), value_(value), request_(request) {}
        void read(std::uint64_t offset, std::span<std::byte> data) override;
        void write(std::uint64_t offset, std::span<const std::byte> data) override;

    private:
        GuestEvents& events_;
        std::uint8_t value_;
        GuestRequest request_;
    };

    GuestEvents& events_;
    Trigger keyboard_{events_, 0xFE, GuestRequest::reboot};
    // The status register behind it reads as 0: the machine never wakes from a sleep.
    Trigger sleep_{events_, platform::kSoftOffValue, GuestRequest::power_off};
};

}  // namespace snapvm
