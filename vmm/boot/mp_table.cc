// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/mp_table.h"

#include <span>
#include <string_view>

#include "vmm/base/bytes.h"
#include "vmm/boot/checksum.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::uint8_t kSpecification = 4;  // 1.4
constexpr std::uint8_t kLapicVersion = 0x14, kIoApicVersion = 0x11;
constexpr std::uint8_t kEnabled = 1, kBootProcessor = 2;
constexpr std::uint8_t kAllLapics = 0xFF;
constexpr std::size_t kPointerSize = 16, kPointerChecksum = 10;
constexpr std::size_t kHeaderSize = 44, kHeaderChecksum = 7;
enum Entry : std::uint8_t { processor = 0, bus = 1, io_apic = 2, interrupt = 3, local_interrupt = 4 };
enum Interrupt : std::uint8_t { vectored = 0, nmi = 1, external = 3 };

void put_text(Encoder& out, std::string_view text) { out.raw(std::as_bytes(std::span(text))); }

// `pin` is one of the IOAPIC `to`, or of a LAPIC. Polarity and trigger follow the bus, ISA: active
// high, edge.
void put_interrupt(Encoder& out, Entry entry, Interrupt type, std::uint8_t number, std::uint8_t to, std::uint8_t pin) {
    out.u8(entry);
    out.u8(type);
    out.u16(0);
    out.u8(0);  // the only bus
    out.u8(number);
    out.u8(to);
    out.u8(pin);
}

}  // namespace

std::vector<std::byte> mp_table(std::uint32_t cpus) {
    const auto io_apic_id = static_cast<std::uint8_t>(cpus);
    Encoder entries;
    std::uint16_t count = 0;
    for (std::uint32_t cpu = 0; cpu < cpus; ++cpu, ++count) {
        entries.u8(Entry::processor);
        entries.u8(static_cast<std::uint8_t>(cpu));
        entries.u8(kLapicVersion);
        entries.u8(kEnabled | (cpu == 0 ? kBootProcessor : 0));
        entries.u32(0);      // signature
        entries.u32(0x201);  // features: FPU, APIC
        entries.u32(0);
        entries.u32(0);
    }
    entries.u8(Entry::bus);
    entries.u8(0);
    put_text(entries, "ISA   ");
    entries.u8(Entry::io_apic);
    entries.u8(io_apic_id);
    entries.u8(kIoApicVersion);
    entries.u8(kEnabled);
    entries.u32(static_cast<std::uint32_t>(platform::kIoApicBase.value));
    count += 2;
    for (std::uint8_t pin = 0; pin < platform::kIoApicPins; ++pin, ++count) {
        put_interrupt(entries, Entry::interrupt, Interrupt::vectored, pin, io_apic_id, pin);
    }
    put_interrupt(entries, Entry::local_interrupt, Interrupt::external, 0, kAllLapics, 0);
    put_interrupt(entries, Entry::local_interrupt, Interrupt::nmi, 0, kAllLapics, 1);
    count += 2;

    Encoder pointer;
    put_text(pointer, "_MP_");
    pointer.u32(static_cast<std::uint32_t>(platform::kMpTable.value + kPointerSize));
    pointer.u8(kPointerSize / 16);
    pointer.u8(kSpecification);
    pointer.pad_to(kPointerSize);
    std::vector<std::byte> bytes = pointer.take();
    set_checksum(bytes, kPointerChecksum);

    Encoder table;
    put_text(table, "PCMP");
    table.u16(static_cast<std::uint16_t>(kHeaderSize + entries.size()));
    table.u8(kSpecification);
    table.u8(0);  // checksum
    put_text(table, "SNAPVM  ");
    put_text(table, "SNAPVM      ");
    table.u32(0);  // no OEM table
    table.u16(0);
    table.u16(count);
    table.u32(static_cast<std::uint32_t>(platform::kLapicBase.value));
    table.u32(0);  // no extended table
    table.raw(entries.bytes());
    std::vector<std::byte> configuration = table.take();
    set_checksum(configuration, kHeaderChecksum);
    bytes.insert(bytes.end(), configuration.begin(), configuration.end());
    return bytes;
}

}  // namespace snapvm
