// SPDX-License-Identifier: Apache-2.0
// Checks every byte of an area that has a meaning, and compares two snapshots.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "snapshot/area/area_path.h"
#include "snapshot/area/progress.h"
#include "vmm/base/error.h"

namespace snapvm {

/// The result of verify_area(). The snapshots are sound if `fault_count` is 0.
struct VerifyReport {
    static constexpr std::size_t kMaxFaults = 64;
    std::vector<std::string> faults;    ///< the first kMaxFaults faults, one line each
    std::uint64_t fault_count = 0;
    std::uint64_t snapshots = 0;        ///< complete snapshots in the area; with two slots there may be two
    std::uint64_t pages = 0;            ///< pages whose checksum, equality or zeros were checked
    std::uint64_t sections = 0;

    void add(std::string fault);
};

/// Recomputes every checksum of every complete snapshot in the area: superblocks, sections, state
/// records and pages. Pages without data must read as zeros, shared pages must equal the page that
/// they name, and the map plan must cover no data. Damage is reported in the result. Fails only if
/// there is nothing to check: not an area, incomplete, truncated, busy or unreadable. `progress`
/// counts the pages of all snapshots, and its total is the pages of all.
Result<VerifyReport> verify_area(const AreaPath& path, const Progress& progress = {});

/// Returns a line for each difference of two snapshots in configuration, state records, page
/// classes and pages, at most VerifyReport::kMaxFaults lines. Snapshot ids, times and places may
/// differ.
Result<std::vector<std::string>> compare_snapshots(const AreaPath& a, const AreaPath& b);

/// Returns the caller's metadata (WriteOptions::metadata).
Result<std::string> read_metadata(const AreaPath& path);

}  // namespace snapvm
