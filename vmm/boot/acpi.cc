// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "vmm/base/bytes.h"
#include "vmm/boot/checksum.h"
#include "vmm/boot/dsdt.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::string_view kOemId = "SNAPVM";
constexpr std::size_t kHeaderSize = 36;
constexpr std::size_t kHeaderChecksum = 9;
constexpr std::size_t kRsdpSize = 36;

void put_text(Encoder& out, std::string_view text) { out.raw(std::as_bytes(std::span(text))); }

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

// Generic address structure (5.2.3.2): one byte-wide port.
void put_port(Encoder& out, std::uint16_t port) {
    out.u8(1);  // system I/O
    out.u8(8);  // bits
    out.u8(0);
    out.u8(1);  // accessed by bytes
    out.u64(port);
}

// Table 5.9. Fields that reduced hardware lacks are zero.
std::vector<std::byte> fadt(std::uint64_t dsdt_at) {
    constexpr std::uint16_t kNoVga = 1 << 2;
    constexpr std::uint16_t kNoCmosClock = 1 << 5;
    constexpr std::uint32_t kWbinvd = 1 << 0;
    constexpr std::uint32_t kControlMethodPowerButton = 1 << 4;
    constexpr std::uint32_t kNoSleepButton = 1 << 5;
    constexpr std::uint32_t kResetRegister = 1 << 10;
    constexpr std::uint32_t kReducedHardware = 1 << 20;
    constexpr std::size_t kFadtSize = 276;

    Encoder body;
    const auto pad_to_field = [&](std::size_t offset) { body.pad_to(offset - kHeaderSize); };
    pad_to_field(40);
    body.u32(static_cast<std::uint32_t>(dsdt_at));
    pad_to_field(109);
    body.u16(kNoVga | kNoCmosClock);
    pad_to_field(112);
    body.u32(kWbinvd | kControlMethodPowerButton | kNoSleepButton | kResetRegister | kReducedHardware);
    put_port(body, platform::kResetControlPort);
    body.u8(platform::kResetValue);
    pad_to_field(131);
    body.u8(4);  // minor version
    pad_to_field(140);
    body.u64(dsdt_at);
    pad_to_field(244);
    put_port(body, platform::kSleepControlPort);
    put_port(body, platform::kSleepStatusPort);
    put_text(body, kOemId);  // hypervisor vendor
    pad_to_field(kFadtSize);
    return table("FACP", 6, body.bytes());
}

std::vector<std::byte> rsdp(std::uint64_t xsdt_at) {
    Encoder out;
    put_text(out, "RSD PTR ");
    out.u8(0);  // checksum of the first 20 bytes
    put_text(out, kOemId);
    out.u8(2);   // revision
    out.u32(0);  // no RSDT
    out.u32(kRsdpSize);
    out.u64(xsdt_at);
    out.u8(0);  // checksum of all
    out.pad_to(kRsdpSize);
    std::vector<std::byte> bytes = out.take();
    set_checksum(std::span(bytes).first(20), 8);
    set_checksum(bytes, 32);
    return bytes;
}

// Appends a table at a multiple of 16. Returns its guest-physical address.
std::uint64_t append(Encoder& all, std::span<const std::byte> bytes) {
    all.pad_to(align_up(all.size(), 16));
    const std::uint64_t at = platform::kFirmwareBase.value + all.size();
    all.raw(bytes);
    return at;
}

}  // namespace

Result<std::vector<std::byte>> acpi_tables(const AcpiMachine& machine) {
    constexpr std::size_t kListed = 2;  // listed in the XSDT
    Encoder all;
    // The root tables come first and point to the others, so their space is reserved now and filled
    // at the end.
    append(all, rsdp(0));
    const std::uint64_t xsdt_at = append(all, std::vector<std::byte>(kHeaderSize + kListed * sizeof(std::uint64_t)));
    const std::uint64_t dsdt_at = append(all, table("DSDT", 2, dsdt_body(machine.virtio_devices)));
    Encoder listed;
    listed.u64(append(all, fadt(dsdt_at)));
    listed.u64(append(all, madt(machine.cpus)));
    if (all.size() > platform::kFirmwareSize) {
        return fail(ErrorKind::invalid,
                    "the firmware tables of a machine with " + std::to_string(machine.cpus) + " vCPUs and " +
                        std::to_string(machine.virtio_devices) + " virtio devices do not fit their 64 KiB",
                    "give the machine fewer of them");
    }
    std::vector<std::byte> bytes = all.take();
    std::ranges::copy(rsdp(xsdt_at), bytes.begin());
    std::ranges::copy(table("XSDT", 1, listed.bytes()),
                      bytes.begin() + static_cast<std::ptrdiff_t>(xsdt_at - platform::kFirmwareBase.value));
    return bytes;
}

}  // namespace snapvm
