// SPDX-License-Identifier: Apache-2.0
// Where everything of an area lies: a pure function of memory blocks, number of vCPUs and number of slots (FORMAT.md, "Layout").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/superblock.h"
#include "vmm/base/error.h"
#include "vmm/machine/config.h"

namespace snapvm {

inline constexpr std::uint64_t kPlanCapacity = 4096;
inline constexpr std::uint64_t kStartCapacity = 96ULL << 10;
inline constexpr std::uint64_t kMetadataCapacity = 64ULL << 10;
inline constexpr std::uint64_t kDisksCapacity = 64ULL << 10;
inline constexpr std::uint64_t kWorkingSetCapacity = 64ULL << 10;

/// The places of one slot.
struct SlotLayout {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::uint64_t head_offset = 0;    ///< start section, and right behind it the machine state
    std::uint64_t head_capacity = 0;
    std::uint64_t plan_offset = 0;
    std::uint64_t metadata_offset = 0;
    std::uint64_t disks_offset = 0;
    std::uint64_t working_set_offset = 0;
    std::vector<std::uint64_t> entries_offsets;  ///< one a block, in block-list order
    std::vector<std::uint64_t> data_offsets;
};

/// One whole area.
struct AreaLayout {
    std::uint64_t size = 0;
    std::uint32_t cpus = 0;
    std::uint64_t memory_bytes = 0;
    std::vector<SlotLayout> slots;

    /// Usage errors: no or too many blocks, slots other than 1 and 2, memory that does not fit 62 bits.
    static Result<AreaLayout> of(std::span<const BlockSpec> blocks, std::uint32_t cpus, std::uint32_t slots);
};

/// What `snapvm size` prints: the bytes an area for such a machine takes.
Result<std::uint64_t> area_size(const MachineConfig& config, std::uint32_t slots);

}  // namespace snapvm
