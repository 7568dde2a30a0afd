// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/boot/loader.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::uint32_t kMagic = 0x336EC578;
constexpr std::uint32_t kVersion = 1;

}  // namespace

Result<BootEntry> write_pvh_start_info(GuestMemory& memory, std::uint32_t entry, std::span<const MemoryMapEntry> map,
                                       std::span<const Placed> modules) {
    Encoder list;
    for (const Placed& module : modules) {
        list.u64(module.at.value);
        list.u64(module.size);
        list.u64(0);  // no command line of its own
        list.u64(0);
    }
    TRY(memory.write(platform::kPvhModules, list.bytes()));

    Encoder ranges;
    for (const MemoryMapEntry& range : map) {
        ranges.u64(range.base.value);
        ranges.u64(range.size);
        ranges.u32(static_cast<std::uint32_t>(range.type));
        ranges.u32(0);
    }
    TRY(memory.write(platform::kPvhMemoryMap, ranges.bytes()));

    Encoder info;
    info.u32(kMagic);
    info.u32(kVersion);
    info.u32(0);  // flags
    info.u32(static_cast<std::uint32_t>(modules.size()));
    info.u64(modules.empty() ? 0 : platform::kPvhModules.value);
    info.u64(platform::kCommandLine.value);
    info.u64(platform::kFirmwareBase.value);  // RSDP
    info.u64(platform::kPvhMemoryMap.value);
    info.u32(static_cast<std::uint32_t>(map.size()));
    info.u32(0);
    TRY(memory.write(platform::kPvhStartInfo, info.bytes()));
    TRY(write_entry_tables(memory, BootEntry::Mode::pvh));
    return BootEntry{BootEntry::Mode::pvh, entry, platform::kPvhStartInfo};
}

}  // namespace snapvm
