// SPDX-License-Identifier: Apache-2.0
// An IOAPIC of 24 pins whose messages go to KVM's LAPICs (split irqchip). Source: Intel 82093AA data sheet, sections 3.1 and 3.2; KVM
// api.rst, KVM_CAP_SPLIT_IRQCHIP and KVM_EXIT_IOAPIC_EOI.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "devices/device.h"

namespace snapvm {

struct IoApicStateV1 {
    static constexpr std::uint16_t kVersion = 1;
    static constexpr std::size_t kPins = 24;

    std::uint8_t select = 0;
    std::uint8_t id = 0;
    std::array<std::uint64_t, kPins> redirection{};
    std::uint32_t levels = 0;  ///< bit a pin: what the devices drive now

    IoApicStateV1();
    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<IoApicStateV1> decode(std::span<const std::byte> bytes);
};

class IoApic final : public Device, public InterruptSink {
public:
    explicit IoApic(const DeviceHost& host) : msi_(host.msi) {}
    static Result<std::unique_ptr<IoApic>> restore(const DeviceHost& host, const StateRecord& record);

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;
    /// KVM learns the routes of level-triggered pins again.
    Status restored() override;

    void set_level(std::uint32_t gsi, bool high) override;
    /// A LAPIC has finished with `vector`: level-triggered pins that are still high fire again.
    void end_of_interrupt(std::uint8_t vector);
    /// Vectors of level-triggered pins whose interrupt has been sent and not acknowledged.
    [[nodiscard]] std::vector<std::uint8_t> awaiting_eoi() const;

private:
    [[nodiscard]] std::uint32_t read_selected() const;
    void write_selected(std::uint32_t value);
    void deliver(std::size_t pin);
    void publish_routes();

    MsiSink& msi_;
    mutable std::mutex mutex_;  // innermost: nothing but KVM is called while it is held
    IoApicStateV1 state_;
};

}  // namespace snapvm
