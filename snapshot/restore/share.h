// SPDX-License-Identifier: Apache-2.0
// Keeps one copy in memory of pages that hold the same: maps runs of class shared onto the pages
// that they repeat.
#pragma once

#include <cstdint>
#include <span>

#include "snapshot/area/origin.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

struct SharingLimits {
    std::uint32_t max_runs = 0;  ///< each run takes up to two more mappings of the process (max_map_count)
    std::uint64_t min_pages = 0;  ///< least length of a run
};

struct SharingReport {
    std::uint32_t runs = 0;
    std::uint64_t pages = 0;  ///< pages in these runs, each of which saves a page of the page cache
};

/// Maps the longest runs of shared pages in `blocks` onto the pages that they repeat. `blocks` must
/// be all blocks of the snapshot, in block-list order, freshly mapped and with their overlays,
/// which stay as they are. The pages that a run is mapped onto stay in their own place. Takes it
/// from the entries that both hold the same, and reads no data; verify_area() compares it.
///
/// Fails with invalid if the checksum over the entries is wrong or a shared entry does not name an
/// earlier first page, and with system. After an error some runs may be mapped.
Result<SharingReport> share_pages(const SnapshotOrigin& origin, std::span<MemoryBlock> blocks,
                                  const SharingLimits& limits);

}  // namespace snapvm
