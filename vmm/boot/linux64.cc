// SPDX-License-Identifier: Apache-2.0
#include <asm/bootparam.h>
#include <sys/random.h>

#include <array>
#include <cerrno>

#include "vmm/base/try.h"
#include "vmm/boot/loader.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::uint8_t kUndefinedLoader = 0xFF;
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr std::uint32_t kHeaderMagic = 0x53726448;  // "HdrS"

// Seeds the kernel's random pool. Without a seed some kernels wait for entropy, for minutes if they
// gather it from timing jitter alone.
struct RandomSeed {
    std::uint64_t next = 0;
    std::uint32_t type = SETUP_RNG_SEED;
    std::uint32_t size = sizeof bytes;
    std::array<std::uint8_t, 64> bytes{};
};
static_assert(offsetof(RandomSeed, bytes) == sizeof(setup_data));

}  // namespace

Result<BootEntry> write_linux_boot_params(GuestMemory& memory, std::uint64_t entry, std::span<const MemoryMapEntry> map,
                                          std::span<const Placed> modules, std::size_t cmdline_size) {
    boot_params params{};
    params.hdr.type_of_loader = kUndefinedLoader;
    params.hdr.boot_flag = kBootFlag;
    params.hdr.header = kHeaderMagic;
    params.hdr.kernel_alignment = 0x1000000;
    params.hdr.cmd_line_ptr = static_cast<std::uint32_t>(platform::kCommandLine.value);
    params.hdr.cmdline_size = static_cast<std::uint32_t>(cmdline_size);
    if (!modules.empty()) {
        const Gpa end = modules.back().at + modules.back().size;
        params.hdr.ramdisk_image = static_cast<std::uint32_t>(modules.front().at.value);
        params.hdr.ramdisk_size = static_cast<std::uint32_t>(end - modules.front().at);
    }
    params.acpi_rsdp_addr = platform::kFirmwareBase.value;
    for (const MemoryMapEntry& range : map) {
        boot_e820_entry& e820 = params.e820_table[params.e820_entries++];
        e820.addr = range.base.value;
        e820.size = range.size;
        e820.type = static_cast<std::uint32_t>(range.type);
    }
    RandomSeed seed;
    if (::getrandom(seed.bytes.data(), seed.bytes.size(), 0) != static_cast<ssize_t>(seed.bytes.size())) {
        return fail(Error::system("getrandom", "", errno));
    }
    TRY(memory.store(platform::kSetupData, seed));
    params.hdr.setup_data = platform::kSetupData.value;
    TRY(memory.store(platform::kBootParams, params));
    TRY(write_entry_tables(memory, BootEntry::Mode::linux64));
    return BootEntry{BootEntry::Mode::linux64, entry, platform::kBootParams};
}

}  // namespace snapvm
