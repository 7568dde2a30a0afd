// SPDX-License-Identifier: Apache-2.0
// The ways a PC's guest asks for a reboot or a power-off: the keyboard controller's reset line (port 0x64), the reset control register
// (port 0xCF9; Intel ICH9 data sheet, section 13.7.5) and ACPI's sleep control and status registers (ACPI 6.4, section 4.8.3.7).
#pragma once

#include <atomic>
#include <memory>

#include "devices/device.h"
#include "vmm/platform/platform.h"

namespace snapvm {

struct ResetStateV1 {
    static constexpr std::uint16_t kVersion = 1;
    std::uint8_t reset_control = 0;  ///< what was last written to 0xCF9 without asking for a reset

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<ResetStateV1> decode(std::span<const std::byte> bytes);
};

/// Sits on three ports through one BusDevice each; `keyboard`, `control` and `sleep` are what the bus is given.
class Reset final : public Device {
public:
    explicit Reset(const DeviceHost& host) : events_(host.events) {}
    static Result<std::unique_ptr<Reset>> restore(const DeviceHost& host, const StateRecord& record);

    /// The reset control register, port 0xCF9.
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;

    [[nodiscard]] BusDevice& keyboard() { return keyboard_; }
    [[nodiscard]] BusDevice& sleep() { return sleep_; }

private:
    // A write-only register: one byte value does something, all others nothing, as do writes behind it.
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
    // The status register beside it is 0: the machine never wakes from a sleep.
    Trigger sleep_{events_, platform::kSoftOffValue, GuestRequest::power_off};
    std::atomic<std::uint8_t> reset_control_ = 0;
};

}  // namespace snapvm
