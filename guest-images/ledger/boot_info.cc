// SPDX-License-Identifier: Apache-2.0
// Sources: Xen's public/arch-x86/hvm/start_info.h; Linux, Documentation/arch/x86/zero-page.rst.
#include "guest-images/ledger/boot_info.h"

#include "guest-images/ledger/paging.h"
#include "guest-images/ledger/power.h"

namespace snapvm::guest {
namespace {

constexpr u32 kStartInfoMagic = 0x336ec578;
constexpr u32 kUsable = 1;

struct StartInfo {
    u32 magic, version, flags, modules;
    u64 module_list, command_line, rsdp, memory_map;
    u32 memory_map_entries, reserved;
};
struct MemoryMapEntry {
    u64 address, size;
    u32 type, reserved;
};
struct [[gnu::packed]] E820Entry {
    u64 address, size;
    u32 type;
};

void add(BootInfo& info, u64 address, u64 size, u32 type) {
    if (type == kUsable && info.ranges < BootInfo::kMaxRanges) info.ram[info.ranges++] = {address, address + size};
}

void copy_command_line(BootInfo& info, u64 address) {
    if (address == 0) return;
    map_identity(address, address + BootInfo::kMaxCommandLine);
    const char* from = reinterpret_cast<const char*>(address);
    for (u32 i = 0; i < BootInfo::kMaxCommandLine - 1 && from[i] != 0; ++i) info.command_line[i] = from[i];
}

void read_pvh(BootInfo& info, u64 address) {
    map_identity(address, address + sizeof(StartInfo));
    const auto& start = *reinterpret_cast<const StartInfo*>(address);
    if (start.magic != kStartInfoMagic) panic("no PVH start info");
    if (start.version < 1) panic("PVH start info has no memory map");
    info.rsdp = start.rsdp;
    map_identity(start.memory_map, start.memory_map + start.memory_map_entries * sizeof(MemoryMapEntry));
    const auto* entries = reinterpret_cast<const MemoryMapEntry*>(start.memory_map);
    for (u32 i = 0; i < start.memory_map_entries; ++i) add(info, entries[i].address, entries[i].size, entries[i].type);
    copy_command_line(info, start.command_line);
}

template <typename T>
T field(u64 base, u32 offset) {
    T value;
    __builtin_memcpy(&value, reinterpret_cast<const void*>(base + offset), sizeof value);
    return value;
}

void read_boot_params(BootInfo& info, u64 address) {
    map_identity(address, address + 4096);
    info.rsdp = field<u64>(address, 0x70);
    const u32 entries = field<u8>(address, 0x1e8);
    for (u32 i = 0; i < entries && i < 128; ++i) {
        const auto entry = field<E820Entry>(address, 0x2d0 + i * sizeof(E820Entry));
        add(info, entry.address, entry.size, entry.type);
    }
    copy_command_line(info, field<u32>(address, 0x228) | u64{field<u32>(address, 0xc8)} << 32);
}

}  // namespace

void read_boot_info(BootInfo& info, u32 kind, u64 address) {
    if (kind == BOOT_PVH)
        read_pvh(info, address);
    else
        read_boot_params(info, address);
}

}  // namespace snapvm::guest
