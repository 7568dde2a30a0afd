// SPDX-License-Identifier: Apache-2.0
// Restores from an area: the saved state of a machine, and its memory mapped from the area.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "snapshot/area/area_identity.h"
#include "snapshot/area/area_path.h"
#include "vmm/base/error.h"
#include "vmm/config/saved_state.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

struct RestoreOptions {
    /// Goes on if only one superblock is valid. What is restored may then be older than the newest
    /// snapshot.
    bool salvage = false;
    /// The most memory that the machine may have. A snapshot is untrusted, and what is kept for
    /// each page costs time and memory.
    std::uint64_t max_memory_bytes = std::numeric_limits<std::uint64_t>::max();
    /// The largest number of map plan runs, longest first, that are overlaid with anonymous memory,
    /// and the least size of one (DECISIONS.md, "Overlays").
    std::uint32_t max_overlays = 8;
    std::uint64_t min_overlay_bytes = 16ULL << 20;
    /// Maps runs of pages of class shared onto the pages that they repeat, so that memory holds one
    /// copy of them. Reads all page entries. Below: the largest number of runs, longest first, and
    /// the least size of one (DECISIONS.md, "Sharing").
    bool share = false;
    std::uint32_t max_shared_runs = 256;
    std::uint64_t min_shared_bytes = 64ULL << 10;
};

/// What a machine is built from. The snapshot stays pinned, so that no writer gets its slot, until
/// the last block of `memory` is destroyed.
struct RestoredSnapshot {
    SavedMachine saved;
    GuestMemory memory;
    Uuid snapshot_id;
    AreaIdentity area;
    std::uint64_t sequence = 0;
    std::uint32_t slot = 0;
    std::string lost;  ///< which older snapshot of the area is damaged; empty if none
    std::uint32_t overlays = 0;  ///< runs of the map plan that were overlaid
    std::uint32_t shared_runs = 0;  ///< with `share`: runs mapped onto other pages
    std::uint64_t shared_pages = 0;  ///< pages in these runs
    std::uint64_t read_us = 0;  ///< time to open, read and check the sections
    std::uint64_t map_us = 0;  ///< time to map the blocks and to find what can be shared
};

/// Opens the snapshot that the area holds, pins it and maps it. Takes at most three reads, if no
/// writer comes in between, and one mmap for each block, overlay and shared run. Does not read page
/// data, and page entries only to share. Checks all that it reads: superblocks, section table,
/// start, plan, state; it does not compare the CPU. Fails with not_found or system if the open
/// fails, with invalid if this is not an area or it is truncated or damaged, with unsupported if
/// the version is newer, with incomplete, and with busy if it is being written. Fails with
/// unsupported, before it maps anything, if the machine has more memory than it may.
/// `reserved` is empty, or has the addresses to map over; fails with usage if they are not for the
/// snapshot's blocks.
Result<RestoredSnapshot> open_snapshot(const AreaPath& path, const RestoreOptions& options = {},
                                       std::vector<ReservedBlock> reserved = {});

/// Returns the configuration of the machine that open_snapshot() restores. Makes the same checks,
/// maps nothing, and leaves nothing pinned.
Result<MachineConfig> config_in(const AreaPath& path);

}  // namespace snapvm
