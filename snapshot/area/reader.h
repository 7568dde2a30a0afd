// SPDX-License-Identifier: Apache-2.0
// Opens a snapshot for reading: chooses it, pins it and checks its small sections. Used by restore,
// inspect and verify.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "snapshot/area/area_file.h"
#include "snapshot/area/superblock_pair.h"
#include "snapshot/format/sections.h"
#include "vmm/base/error.h"

namespace snapvm {

/// An area with one slot pinned, by an OFD read lock on `file`.
struct PinnedSnapshot {
    AreaFile file;
    Superblock superblock;
    std::vector<std::byte> head;    ///< bytes of the area from `head_offset` on
    std::uint64_t head_offset = 0;
    std::string lost;  ///< what was passed over (SuperblockPair::what_is_lost); empty if nothing

    /// Makes `head` cover the sections that check_snapshot() needs. Reads once more if it does not.
    Status load_head();
    /// Returns the bytes in use of a small section, from `head` or by a read. Fails with invalid if
    /// their checksum is wrong.
    Result<std::vector<std::byte>> section(SectionKind kind) const;
};

/// Chooses the snapshot to restore and pins it. Fails as SuperblockPair::choose() does, with
/// invalid if the area is truncated, and with busy if the slot is being written.
Result<PinnedSnapshot> pin_snapshot(const AreaPath& path, bool salvage);
/// Pins the snapshot of a given superblock, for inspect and verify, which look at older snapshots
/// too. Fails with invalid if the area is truncated, and with busy if the slot is being written.
Result<PinnedSnapshot> pin_snapshot(const AreaPath& path, const Superblock& superblock);

/// Everything of a snapshot but its pages, decoded.
struct SnapshotHead {
    StartSection start;
    std::vector<PlanRun> plan;
    std::vector<StateRecord> records;
    std::vector<RecordInfo> record_infos;
};
/// Makes the checks that restore, inspect and verify have in common (FORMAT.md, "What is checked"),
/// and returns what it has decoded. Fails with invalid if a section is damaged or if they
/// contradict each other, and with unsupported if the snapshot comes with disks.
Result<SnapshotHead> check_snapshot(const PinnedSnapshot& snapshot);

}  // namespace snapvm
