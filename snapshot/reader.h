// SPDX-License-Identifier: Apache-2.0
// Opening a snapshot for reading: chosen, pinned, and its small sections checked. Under restore, inspect and verify.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/area_file.h"
#include "snapshot/sections.h"
#include "snapshot/superblock_pair.h"
#include "vmm/base/error.h"

namespace snapvm {

/// An area with a slot pinned by an OFD read lock on `file`.
struct PinnedSnapshot {
    AreaFile file;
    Superblock superblock;
    std::vector<std::byte> head;    ///< bytes of the area from `head_offset` on, already read
    std::uint64_t head_offset = 0;

    /// Sees to it that `head` covers the sections that read_head() needs: by one more read where the first did not.
    Status load_head();
    /// The bytes in use of a small section, from `head` or by a read, checked against the section's checksum.
    Result<std::vector<std::byte>> section(SectionKind kind) const;
};

/// Chooses the snapshot to restore and pins it.
Result<PinnedSnapshot> pin_snapshot(const AreaPath& path, bool salvage);
/// Pins the slot of a given superblock (inspect and verify look at older snapshots too); ErrorKind::busy while it is being written.
Status pin_slot(const AreaFile& file, const Superblock& superblock);
/// Fails when the file is shorter than the area says it is.
Status check_not_truncated(const AreaFile& file, const Superblock& superblock);

/// Everything of a snapshot but its pages, decoded and held against each other.
struct SnapshotHead {
    StartSection start;
    std::vector<PlanRun> plan;
    std::vector<StateRecord> records;
    std::vector<RecordInfo> record_infos;
};
Result<SnapshotHead> read_head(const PinnedSnapshot& snapshot);

}  // namespace snapvm
