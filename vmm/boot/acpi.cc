// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include <numeric>
#include <span>
#include <string_view>

#include "vmm/base/bytes.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::string_view kOemId = "SNAPVM";
constexpr std::size_t kHeaderSize = 36;
constexpr std::size_t kHeaderChecksum = 9;
constexpr std::size_t kRsdpSize = 36;

void put_text(Encoder& out, std::string_view text) { out.raw(std::as_bytes(std::span(text))); }

// Makes the bytes' sum zero.
void set_checksum(std::span<std::byte> bytes, std::size_t at) {
    bytes[at] = std::byte{0};
    const auto sum = std::accumulate(bytes.begin(), bytes.end(), 0U,
                                     [](unsigned total, std::byte byte) { return total + std::to_integer<unsigned>(byte); });
    bytes[at] = std::byte(static_cast<std::uint8_t>(0U - sum));
}

std::vector<std::byte> table(std::string_view signature, std::uint8_t revision, std::span<const std::byte> body) {
    Encoder out;
    put_text(out, signature);
    out.u32(static_cast<std::uint32_t>(kHeaderSize + body.size()));
    out.u8(revision);
    out.u8(0);  // checksum
    put_text(out, kOemId);
    put_text(out, "SNAPVM  ");  // OEM table id, 8 bytes
    out.u32(1);                 // OEM revision
    put_text(out, "SNVM");      // creator
    out.u32(1);
    out.raw(body);
    std::vector<std::byte> bytes = out.take();
    set_checksum(bytes, kHeaderChecksum);
    return bytes;
}

std::vector<std::byte> madt(std::uint32_t cpus) {
    Encoder body;
    body.u32(static_cast<std::uint32_t>(platform::kLapicBase.value));
    body.u32(0);  // flags: no 8259s
    for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
        body.u8(0);  // processor local APIC
        body.u8(8);
        body.u8(static_cast<std::uint8_t>(cpu));  // processor id
        body.u8(static_cast<std::uint8_t>(cpu));  // APIC id
        body.u32(1);                              // enabled
    }
    body.u8(1);  // IOAPIC
    body.u8(12);
    body.u8(0);  // id
    body.u8(0);
    body.u32(static_cast<std::uint32_t>(platform::kIoApicBase.value));
    body.u32(0);  // first GSI
    return table("APIC", 5, body.bytes());
}

}  // namespace

std::vector<std::byte> acpi_tables(std::uint32_t cpus) {
    const std::uint64_t base = platform::kFirmwareBase.value;
    const std::uint64_t xsdt_at = align_up(kRsdpSize, 16);
    const std::uint64_t madt_at = align_up(xsdt_at + kHeaderSize + sizeof(std::uint64_t), 16);

    Encoder entries;
    entries.u64(base + madt_at);
    const std::vector<std::byte> xsdt = table("XSDT", 1, entries.bytes());

    Encoder rsdp;
    put_text(rsdp, "RSD PTR ");
    rsdp.u8(0);  // checksum of the first 20 bytes
    put_text(rsdp, kOemId);
    rsdp.u8(2);   // revision
    rsdp.u32(0);  // no RSDT
    rsdp.u32(kRsdpSize);
    rsdp.u64(base + xsdt_at);
    rsdp.u8(0);  // checksum of all
    rsdp.pad_to(kRsdpSize);
    std::vector<std::byte> rsdp_bytes = rsdp.take();
    set_checksum(std::span(rsdp_bytes).first(20), 8);
    set_checksum(rsdp_bytes, 32);

    Encoder all;
    all.raw(rsdp_bytes);
    all.pad_to(xsdt_at);
    all.raw(xsdt);
    all.pad_to(madt_at);
    all.raw(madt(cpus));
    return all.take();
}

}  // namespace snapvm
