// SPDX-License-Identifier: Apache-2.0
// Puts a guest into fresh memory: kernel, initrds, command line, firmware tables, and what the boot protocol wants.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/boot/entry.h"
#include "vmm/boot/memory_map.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// A place in guest memory and how much is there.
struct Placed {
    Gpa at;
    std::uint64_t size = 0;
};

/// What to boot. The byte spans must live until load_guest returns.
struct BootSource {
    std::span<const std::byte> kernel{};
    std::vector<std::span<const std::byte>> initrds{};
    std::string cmdline{};
    std::uint32_t cpus = 1;
    std::uint32_t virtio_devices = 0;  ///< Machine::create counts them
    /// Neither set: PVH when the kernel has its note, else the Linux 64-bit entry.
    bool force_pvh = false;
    bool force_linux64 = false;
};

/// Loads everything into `memory` (zeroed) and returns where the first vCPU starts. A kernel that does not fit, or that wants to lie
/// over what the VMM puts below 1 MiB, is refused; memory without a block ram_low from address 0 to beyond 1 MiB is a usage error.
Result<BootEntry> load_guest(GuestMemory& memory, const BootSource& source);

/// Writes hvm_start_info and what it points at; the entry for it. Source: xen/include/public/arch-x86/hvm/start_info.h, version 1.
Result<BootEntry> write_pvh_start_info(GuestMemory& memory, std::uint32_t entry, std::span<const MemoryMapEntry> map,
                                       std::span<const Placed> modules);
/// Writes boot_params and page tables; the entry for it. Source: Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol". Linux
/// takes one initrd, so several are placed back to back, as its unpacker wants them.
Result<BootEntry> write_linux_boot_params(GuestMemory& memory, std::uint64_t entry, std::span<const MemoryMapEntry> map,
                                          std::span<const Placed> modules, std::size_t cmdline_size);

}  // namespace snapvm
