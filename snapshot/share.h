// SPDX-License-Identifier: Apache-2.0
// One copy in memory of pages that hold the same: runs of class shared are mapped onto the pages that they repeat.
#pragma once

#include <cstdint>
#include <span>

#include "snapshot/origin.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

struct SharingLimits {
    std::uint32_t max_runs = 0;  ///< each takes up to two more of a process' mappings (max_map_count)
    std::uint64_t min_pages = 0;  ///< of a run
};

struct SharingReport {
    std::uint32_t runs = 0;
    std::uint64_t pages = 0;  ///< in them: so many less of the file's are needed
};

/// `blocks` are all of a snapshot's, in block-list order, freshly mapped with their overlays, which are left as they are. Chooses the
/// longest runs; what one is mapped onto stands in its own place, so each page of a run is one less in memory. That both hold the same is
/// the entries' word: no data is read here (`verify` compares it).
///
/// Errors: invalid (wrong checksum over the entries, an entry that names no first page before it), system. Blocks may then be shared in
/// part.
Result<SharingReport> share_pages(const SnapshotOrigin& origin, std::span<MemoryBlock> blocks, const SharingLimits& limits);

}  // namespace snapvm
