// SPDX-License-Identifier: Apache-2.0
// An IOAPIC with 24 pins, whose messages go to KVM's LAPICs (split irqchip). Source: Intel 82093AA
// data sheet, sections 3.1 and 3.2; KVM api.rst, KVM_CAP_SPLIT_IRQCHIP and KVM_EXIT_IOAPIC_EOI.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "devices/base/stateful_device.h"

namespace snapvm {

struct IoApicStateV1 {
    static constexpr RecordKind kKind = RecordKind::ioapic;
    static constexpr std::uint16_t kVersion = 1;
    static constexpr std::size_t kPins = 24;

    std::uint8_t select = 0;
    std::uint8_t id = 0;
    std::array<std::uint64_t, kPins> redirection{};
    std::uint32_t levels = 0;  ///< one bit for each pin: the level that the devices drive

    IoApicStateV1();
    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<IoApicStateV1> decode(std::span<const std::byte> bytes);
};

/// Its lock is innermost: only the MsiSink is called while it is held.
class IoApic final : public StatefulDevice<IoApicStateV1>, public InterruptSink {
public:
    explicit IoApic(const DeviceHost& host) : msi_(host.msi) {}

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    /// Gives the routes of level-triggered pins to KVM, if it does not have them.
    Status restored() override;

    void set_level(std::uint32_t gsi, bool high) override;
    /// Handles the end of an interrupt with `vector` on a LAPIC: level-triggered pins that are
    /// still high fire again.
    void end_of_interrupt(std::uint8_t vector);
    /// Returns the vectors of level-triggered pins whose interrupt was sent and is not
    /// acknowledged.
    [[nodiscard]] std::vector<std::uint8_t> awaiting_eoi() const;

private:
    [[nodiscard]] std::uint32_t read_selected() const;
    void write_selected(std::uint32_t value);
    void deliver(std::size_t pin);
    void publish_routes();

    using Routes = std::array<MsiMessage, IoApicStateV1::kPins>;

    MsiSink& msi_;
    std::optional<Routes> published_;  ///< what KVM has
};

}  // namespace snapvm
