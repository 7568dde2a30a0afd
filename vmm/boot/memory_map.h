// SPDX-License-Identifier: Apache-2.0
// What the guest is told of its memory (the E820 types of ACPI 6.4, section 15), for PVH and Linux alike.
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

/// RAM without the PC's reserved area below 1 MiB, firmware tables as ACPI, device memory as reserved. Block ram_low goes beyond 1 MiB
/// (load_guest sees to that).
[[nodiscard]] std::vector<MemoryMapEntry> memory_map(std::span<const BlockSpec> blocks);

}  // namespace snapvm
