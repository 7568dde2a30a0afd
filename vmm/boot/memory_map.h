// SPDX-License-Identifier: Apache-2.0
// The memory map that PVH and Linux guests get (the E820 types of ACPI 6.4, section 15).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/memory/block.h"

namespace snapvm {

struct MemoryMapEntry {
    enum class Type : std::uint32_t { ram = 1, reserved = 2, acpi = 3 };
    Gpa base;
    std::uint64_t size = 0;
    Type type{};
};

/// Lists RAM without the PC's reserved area below 1 MiB, firmware tables as ACPI, and device memory
/// as reserved. Block ram_low must exceed 1 MiB (load_guest checks it).
[[nodiscard]] std::vector<MemoryMapEntry> memory_map(std::span<const BlockSpec> blocks);

}  // namespace snapvm
