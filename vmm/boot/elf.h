// SPDX-License-Identifier: Apache-2.0
// Reads ELF64 x86-64 executables. The file is untrusted, so every offset and size is checked before
// use. Source: System V ABI, "Object Files"; Linux Documentation/arch/x86/pvh (the note);
// xen/include/public/elfnote.h (the note's number).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

/// One part of a file to load: `bytes`, then zeros up to `memory_size`.
struct ElfSegment {
    Gpa at;
    std::uint64_t memory_size = 0;
    std::span<const std::byte> bytes;
};

/// A checked view of the file's bytes, which must outlive it.
struct ElfImage {
    std::uint64_t entry = 0;
    std::optional<std::uint32_t> pvh_entry;  ///< physical 32-bit entry of the PVH note
    std::vector<ElfSegment> segments;        ///< PT_LOAD segments with a size; they do not overlap

    static Result<ElfImage> parse(std::span<const std::byte> file);
};

}  // namespace snapvm
