// SPDX-License-Identifier: Apache-2.0
// The table of an image's internal snapshots. Source: QEMU, docs/interop/qcow2.rst, "Snapshots".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/disk/io/disk_io.h"
#include "devices/disk/qcow2/header.h"

namespace snapvm::disk::qcow2 {

/// One internal snapshot. Its texts are untrusted.
struct Snapshot {
    std::uint64_t l1_offset = 0;
    std::uint32_t l1_entries = 0;
    std::string id;    ///< unique in its image
    std::string name;
    std::uint32_t seconds = 0;  ///< since the Epoch, when it was taken
    std::uint32_t nanoseconds = 0;
    std::uint64_t guest_nanoseconds = 0;  ///< that the guest had run by then
    std::uint64_t vm_state_size = 0;      ///< in bytes
    std::uint64_t disk_size = 0;          ///< in bytes; the image's if `has_disk_size` is false
    std::vector<std::byte> more_data;     ///< what the entry has behind these
    bool has_disk_size = true;            ///< the entry says it; one of version 2 may not
    bool operator==(const Snapshot&) const = default;
};

struct SnapshotTable {
    std::vector<Snapshot> snapshots;
    std::uint64_t bytes = 0;  ///< of the table in the file
};

/// Reads the table that the header names. Fails with invalid if the table or an L1 table that it
/// names is not in the file, or if an entry is not possible. Sizes are limited: 64 MiB for the
/// table, 32 MiB for an L1 table.
Task<Result<SnapshotTable>> read_snapshots(DiskIo& file, const Header& header);

/// Returns the bytes of a table. Fails with usage if a text is too long.
Result<std::vector<std::byte>> encode_snapshots(std::span<const Snapshot> snapshots);

}  // namespace snapvm::disk::qcow2
