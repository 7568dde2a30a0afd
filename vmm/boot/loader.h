// SPDX-License-Identifier: Apache-2.0
// Loads a guest into fresh memory: kernel, initrds, command line, firmware tables, and the data of
// the boot protocol.
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

/// A range of guest memory.
struct Placed {
    Gpa at;
    std::uint64_t size = 0;
};

/// What to boot. The bytes of the spans must stay valid until load_guest returns.
struct BootSource {
    std::span<const std::byte> kernel{};
    std::vector<std::span<const std::byte>> initrds{};
    std::string cmdline{};
    std::uint32_t cpus = 1;
    std::uint32_t virtio_devices = 0;  ///< set by Machine::create
    /// If neither is set: PVH if the kernel has the note, else the Linux 64-bit entry.
    bool force_pvh = false;
    bool force_linux64 = false;
};

/// Loads everything into `memory`, which is zeroed, and returns where the first vCPU starts. Fails
/// with invalid if the kernel does not fit, or overlaps the data of the VMM below 1 MiB. Fails with
/// usage if memory has no block ram_low that starts at 0 and exceeds 1 MiB.
Result<BootEntry> load_guest(GuestMemory& memory, const BootSource& source);

/// Writes hvm_start_info and the data that it points to. Returns the entry for it. Source:
/// xen/include/public/arch-x86/hvm/start_info.h, version 1.
Result<BootEntry> write_pvh_start_info(GuestMemory& memory, std::uint32_t entry, std::span<const MemoryMapEntry> map,
                                       std::span<const Placed> modules);
/// Writes boot_params and page tables. Returns the entry for them. Source: Linux
/// Documentation/arch/x86/boot.rst, "64-bit boot protocol". Linux takes one initrd; several are
/// placed one after the other, which its unpacker accepts.
Result<BootEntry> write_linux_boot_params(GuestMemory& memory, std::uint64_t entry, std::span<const MemoryMapEntry> map,
                                          std::span<const Placed> modules, std::size_t cmdline_size);

}  // namespace snapvm
