// SPDX-License-Identifier: Apache-2.0
// The offsets of everything in an area: a pure function of the memory blocks, the number of vCPUs
// and the number of slots (FORMAT.md, "Layout").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/format/superblock.h"
#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"

namespace snapvm {

inline constexpr std::uint64_t kPlanCapacity = 4096;
inline constexpr std::uint64_t kStartCapacity = 96ULL << 10;
inline constexpr std::uint64_t kMetadataCapacity = 64ULL << 10;
inline constexpr std::uint64_t kDisksCapacity = 64ULL << 10;
inline constexpr std::uint64_t kWorkingSetCapacity = 64ULL << 10;

/// The layout of one slot. Offsets are in bytes from the start of the area.
struct SlotLayout {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::uint64_t head_offset = 0;    ///< start section, followed by the machine state
    std::uint64_t head_capacity = 0;
    std::uint64_t plan_offset = 0;
    std::uint64_t metadata_offset = 0;
    std::uint64_t disks_offset = 0;
    std::uint64_t working_set_offset = 0;
    std::vector<std::uint64_t> entries_offsets;  ///< one for each block, in block-list order
    std::vector<std::uint64_t> data_offsets;  // likewise
};

/// The layout of one area. Sizes are in bytes.
struct AreaLayout {
    std::uint64_t size = 0;
    std::uint32_t cpus = 0;
    std::uint64_t memory_bytes = 0;
    std::vector<SlotLayout> slots;

    /// Computes the layout. Fails with usage if there are no or too many blocks, no vCPUs, a block
    /// size that cannot be stored, or a number of slots other than 1 and 2.
    static Result<AreaLayout> of(std::span<const BlockSpec> blocks, std::uint32_t cpus, std::uint32_t slots);
};

/// Returns the size in bytes of an area for such a machine, as `snapvm size` prints it. Fails with
/// usage as AreaLayout::of() does, or if the configuration is invalid.
Result<std::uint64_t> area_size(const MachineConfig& config, std::uint32_t slots);

}  // namespace snapvm
