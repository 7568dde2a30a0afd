// SPDX-License-Identifier: Apache-2.0
// From an area to what a machine is built from: its saved state, and its memory mapped straight in.
#pragma once

#include <cstdint>

#include "snapshot/area_path.h"
#include "vmm/base/error.h"
#include "vmm/machine/saved_state.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

struct RestoreOptions {
    /// Go on when one superblock is damaged and the other good. What is restored may then be older than the newest snapshot.
    bool salvage = false;
    /// Runs of the map plan to overlay with anonymous memory, the longest first, and the shortest that is worth it: DECISIONS.md,
    /// "Overlays".
    std::uint32_t max_overlays = 8;
    std::uint64_t min_overlay_bytes = 16ULL << 20;
    /// Map pages of class shared onto the page that they repeat, so that one copy of them is in memory. Reads all page entries. At most so
    /// many runs, the longest first, and the shortest that is worth it: DECISIONS.md, "Sharing".
    bool share = false;
    std::uint32_t max_shared_runs = 256;
    std::uint64_t min_shared_bytes = 64ULL << 10;
};

/// Everything a machine needs. The snapshot stays pinned (no writer gets its slot) until the last block of `memory` is gone.
struct RestoredSnapshot {
    SavedMachine saved;
    GuestMemory memory;
    Uuid snapshot_id;
    std::uint64_t sequence = 0;
    std::uint32_t slot = 0;
    std::uint32_t overlays = 0;  ///< runs of the map plan that were overlaid
    std::uint32_t shared_runs = 0;  ///< with `share`: mapped onto other pages
    std::uint64_t shared_pages = 0;  ///< in them
    std::uint64_t read_us = 0;  ///< opening, reading and checking the sections
    std::uint64_t map_us = 0;  ///< mapping the blocks, and finding what can be shared
};

/// Opens the snapshot that the area holds, pins it and maps it: two reads at most, one mmap a block, and one an overlay. Page data
/// is not read, and page entries only to share. Checks all it reads: superblocks, section table, start, plan, state; the CPU is the
/// machine's to compare.
/// Errors: not_found or system (open), invalid (not an area, truncated, damaged), unsupported (newer version), incomplete, busy (being
/// written).
Result<RestoredSnapshot> open_snapshot(const AreaPath& path, const RestoreOptions& options = {});

/// The configuration of the machine that open_snapshot gives, with the same checks; nothing is mapped, and nothing stays pinned.
Result<MachineConfig> config_in(const AreaPath& path);

}  // namespace snapvm
