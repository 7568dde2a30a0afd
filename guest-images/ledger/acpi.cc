// SPDX-License-Identifier: Apache-2.0
// ACPI specification 6.5, sections 5.2.5 (RSDP), 5.2.7, 5.2.8 (RSDT, XSDT), 5.2.12 (MADT).
#include "guest-images/ledger/acpi.h"

#include "guest-images/ledger/paging.h"

namespace snapvm::guest {
namespace {

constexpr u32 kHeaderBytes = 36, kMadtEntries = 44;
constexpr u8 kLocalApic = 0, kLocalX2apic = 9;

template <typename T>
T get(u64 address) {
    T value;
    __builtin_memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
    return value;
}

bool sums_to_zero(u64 address, u32 size) {
    u8 sum = 0;
    for (u32 i = 0; i < size; ++i) sum = static_cast<u8>(sum + get<u8>(address + i));
    return sum == 0;
}

bool is_rsdp(u64 address) {
    return get<u64>(address) == 0x2052545020445352 /* "RSD PTR " */ && sums_to_zero(address, 20);
}

u64 scan_for_rsdp() {
    for (u64 address = 0x9fc00; address < 0x100000; address += 16) {
        if (address == 0xa0000) address = 0xe0000;  // the RSDP is in the EBDA or from 0xE0000 on (5.2.5.1)
        if (is_rsdp(address)) return address;
    }
    return 0;
}

// Maps the table at `address` and returns its length. Returns 0 if the length or checksum is wrong.
u32 open_table(u64 address) {
    if (address == 0 || address >= kMappableEnd - kHeaderBytes) return 0;
    map_identity(address, address + kHeaderBytes);
    const u32 size = get<u32>(address + 4);
    if (size < kHeaderBytes || size > 1 << 20 || address + size > kMappableEnd) return 0;
    map_identity(address, address + size);
    return sums_to_zero(address, size) ? size : 0;
}

void read_madt(CpuList& cpus, u64 madt, u32 size) {
    const auto add = [&](u32 id, u32 flags) {
        if ((flags & 1) != 0 && id < 255 && cpus.count < MAX_CPUS) cpus.apic_ids[cpus.count++] = static_cast<u8>(id);
    };
    for (u32 at = kMadtEntries; at + 2 <= size;) {
        const u8 type = get<u8>(madt + at), length = get<u8>(madt + at + 1);
        if (length < 2 || at + length > size) return;
        if (type == kLocalApic && length >= 8) add(get<u8>(madt + at + 3), get<u32>(madt + at + 4));
        if (type == kLocalX2apic && length >= 16) add(get<u32>(madt + at + 4), get<u32>(madt + at + 8));
        at += length;
    }
}

}  // namespace

CpuList find_cpus(u64 rsdp) {
    CpuList cpus;
    if (rsdp == 0) rsdp = scan_for_rsdp();
    if (rsdp == 0 || rsdp >= kMappableEnd - kHeaderBytes) return cpus;
    map_identity(rsdp, rsdp + kHeaderBytes);
    if (!is_rsdp(rsdp)) return cpus;
    const u64 xsdt = get<u8>(rsdp + 15) >= 2 ? get<u64>(rsdp + 24) : 0;
    const u64 root = xsdt != 0 ? xsdt : get<u32>(rsdp + 16);
    const u32 entry = xsdt != 0 ? 8 : 4;
    const u32 size = open_table(root);
    for (u32 at = kHeaderBytes; at + entry <= size; at += entry) {
        const u64 table = entry == 8 ? get<u64>(root + at) : get<u32>(root + at);
        const u32 table_size = open_table(table);
        if (table_size >= kMadtEntries && get<u32>(table) == 0x43495041 /* "APIC" */)
            read_madt(cpus, table, table_size);
    }
    return cpus;
}

}  // namespace snapvm::guest
