// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/loader.h"

#include <algorithm>
#include <string>

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/mp_table.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

// Start info, boot parameters, page tables and command line are below this address, so a kernel may
// not be.
constexpr std::uint64_t kKernelMinimum = platform::kOneMiB.value;
// An entry of the PVH module list has 32 bytes, and the list ends at the memory map.
constexpr std::size_t kMaxInitrds = (platform::kPvhMemoryMap - platform::kPvhModules) / 32;

// Copies the segments. Memory is fresh, so what a segment has beyond its bytes is zero already.
Status load_segments(GuestMemory& memory, const ElfImage& image) {
    for (const ElfSegment& segment : image.segments) {
        if (segment.at.value < kKernelMinimum) {
            return fail(ErrorKind::invalid, "the kernel's load address is below 1 MiB, where the boot information is",
                        "link it at 1 MiB or above");
        }
        if (const auto room = memory.span(segment.at, segment.memory_size); !room) {
            return fail(ErrorKind::invalid, "the kernel does not fit into memory: " + room.error().what(),
                        "give the machine more memory (--mem)");
        }
        if (segment.at >= platform::kHoleStart && segment.at < platform::kHoleEnd) {
            return fail(ErrorKind::invalid,
                        "the kernel's load address is that of the firmware tables or of a device's memory",
                        "link it below 3 GiB");
        }
        TRY(memory.write(segment.at, segment.bytes));
    }
    return {};
}

// Puts the initrds at the end of RAM below the hole, the first at the lowest address, each at a
// page boundary. Linux skips the zeros between them.
Result<std::vector<Placed>> place_initrds(GuestMemory& memory, const ElfImage& image,
                                          std::span<const std::span<const std::byte>> initrds) {
    if (initrds.empty()) {
        return std::vector<Placed>{};
    }
    if (initrds.size() > kMaxInitrds) {
        return fail(ErrorKind::usage, std::to_string(initrds.size()) + " initrds are too many", "give at most 64");
    }
    std::uint64_t total = 0;
    for (const auto& initrd : initrds) {
        total += align_up(initrd.size(), kPageSize);
    }
    const MemoryBlock* low = memory.find(BlockId::ram_low);
    std::uint64_t kernel_end = kKernelMinimum;
    for (const ElfSegment& segment : image.segments) {
        if (segment.at < platform::kHoleStart) {
            kernel_end = std::max(kernel_end, (segment.at + segment.memory_size).value);
        }
    }
    const std::uint64_t room = low == nullptr ? 0 : low->spec().size;
    if (total > room || room - total < kernel_end) {
        return fail(ErrorKind::usage, "the initrds do not fit into memory beside the kernel",
                    "give the machine more memory (--mem)");
    }
    std::vector<Placed> placed;
    Gpa at{room - total};
    for (const auto& initrd : initrds) {
        TRY(memory.write(at, initrd));
        placed.push_back({at, initrd.size()});
        at = at + align_up(initrd.size(), kPageSize);
    }
    return placed;
}

// Checked here, since a wrong entry would only show as a triple fault.
Status check_entry(const ElfImage& image, std::uint64_t entry) {
    const bool inside = std::ranges::any_of(image.segments, [&](const ElfSegment& segment) {
        return entry >= segment.at.value && entry - segment.at.value < segment.memory_size;
    });
    if (!inside || entry >= platform::kHoleEnd.value) {
        return fail(
            ErrorKind::invalid, "the kernel's entry is outside of what it loads, or beyond 4 GiB",
            "give an x86-64 ELF executable whose entry is a physical address (vmlinux, or one with a PVH note)");
    }
    return {};
}

Status check_source(const BootSource& source) {
    if (source.cmdline.size() + 1 > platform::kCommandLineLimit) {
        return fail(ErrorKind::usage, "the guest's command line is too long",
                    "give at most " + std::to_string(platform::kCommandLineLimit - 1) + " bytes");
    }
    if (source.cpus < 1 || source.cpus > platform::kMaxCpus) {
        return fail(ErrorKind::usage, "a machine cannot have " + count_text(source.cpus, "vCPU"),
                    "give a number from 1 to " + std::to_string(platform::kMaxCpus));
    }
    return {};
}

// The memory map and the data below 1 MiB depend on it.
Status check_low_memory(GuestMemory& memory) {
    const MemoryBlock* low = memory.find(BlockId::ram_low);
    if (low == nullptr || low->spec().base.value != 0 || low->spec().size <= platform::kOneMiB.value) {
        return fail(ErrorKind::usage, "a guest needs more than 1 MiB of memory from address 0",
                    "make its first block that large");
    }
    return {};
}

std::vector<BlockSpec> specs_of(const GuestMemory& memory) {
    std::vector<BlockSpec> specs;
    for (const MemoryBlock& block : memory.blocks()) {
        specs.push_back(block.spec());
    }
    return specs;
}

}  // namespace

Result<BootEntry> load_guest(GuestMemory& memory, const BootSource& source) {
    TRY(check_source(source));
    TRY(check_low_memory(memory));
    std::vector<std::byte> unpacked;
    if (is_bzimage(source.kernel)) {
        unpacked = TRY(unpack_bzimage(source.kernel));
    }
    const ElfImage image = TRY(ElfImage::parse(unpacked.empty() ? source.kernel : unpacked));
    if (source.force_pvh && !image.pvh_entry) {
        return fail(ErrorKind::usage, "the kernel has no PVH note",
                    "use --boot linux64, or build the kernel with CONFIG_PVH");
    }
    const bool pvh = image.pvh_entry && !source.force_linux64;
    TRY(check_entry(image, pvh ? *image.pvh_entry : image.entry));
    TRY(load_segments(memory, image));
    const std::vector<Placed> modules = TRY(place_initrds(memory, image, source.initrds));
    TRY(memory.write(platform::kFirmwareBase, TRY(acpi_tables({source.cpus, source.virtio_devices}))));
    TRY(memory.write(platform::kMpTable, mp_table(source.cpus)));
    TRY(memory.write(platform::kCommandLine,
                     std::as_bytes(std::span(source.cmdline.c_str(), source.cmdline.size() + 1))));
    const std::vector<MemoryMapEntry> map = memory_map(specs_of(memory));
    if (pvh) {
        return write_pvh_start_info(memory, *image.pvh_entry, map, modules);
    }
    return write_linux_boot_params(memory, image.entry, map, modules, source.cmdline.size());
}

}  // namespace snapvm
