// SPDX-License-Identifier: Apache-2.0
// Checking every byte of an area that counts, and telling two snapshots apart.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "snapshot/area_path.h"
#include "snapshot/progress.h"
#include "vmm/base/error.h"

namespace snapvm {

/// What was found. The snapshot is sound when `fault_count` is 0.
struct VerifyReport {
    static constexpr std::size_t kMaxFaults = 64;
    std::vector<std::string> faults;    ///< the first kMaxFaults, a line each
    std::uint64_t fault_count = 0;
    std::uint64_t snapshots = 0;        ///< complete ones in the area: with two slots there may be two
    std::uint64_t pages = 0;            ///< whose checksum was recomputed, or that were found to read as zeros
    std::uint64_t sections = 0;

    void add(std::string fault);
};

/// Recomputes every checksum of every complete snapshot in the area: superblocks, sections, state records, pages; pages without data
/// must read as zeros, shared ones like the page they name, and the map plan must cover no data. Damage is reported, not an error; errors
/// are what leaves nothing to check (not an area, incomplete, busy, unreadable).
Result<VerifyReport> verify_area(const AreaPath& path, const Progress& progress = {});

/// A line for each thing in which two snapshots differ but for their ids, times and places: configuration, records, classes, pages.
/// At most VerifyReport::kMaxFaults lines.
Result<std::vector<std::string>> compare_snapshots(const AreaPath& a, const AreaPath& b);

/// The caller's own blob.
Result<std::string> read_metadata(const AreaPath& path);

}  // namespace snapvm
