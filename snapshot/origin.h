// SPDX-License-Identifier: Apache-2.0
// What stands behind a restored machine's memory: the snapshot it maps, pinned as long as any of its blocks lives.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "snapshot/area_file.h"
#include "snapshot/superblock.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// Holds the area's descriptor, and with it the OFD read lock on the slot. Thread-safe.
class SnapshotOrigin final : public PageOrigin {
public:
    /// `file` holds the lock already; `superblock` is a validated, complete one.
    SnapshotOrigin(AreaFile file, Superblock superblock)
        : file_(std::move(file)), superblock_(std::move(superblock)), verified_(superblock_.sections.size()) {}

    /// Before the first entries of a block are handed out, the checksum over all of them is verified: a damaged class would
    /// otherwise pass into the next snapshot as if it were true. A shared page is reported without a checksum.
    Status read_entries(BlockId id, std::uint64_t first, std::span<Entry> out) const override;
    /// The same entries as they are on disk: with the page that a shared one names. Not decoded.
    Status read_words(BlockId id, std::uint64_t first, std::span<std::uint64_t> out) const;
    Status read_data(BlockId id, std::uint64_t first, std::span<std::byte> out) const override;

    [[nodiscard]] const AreaFile& file() const { return file_; }
    [[nodiscard]] const Superblock& superblock() const { return superblock_; }

private:
    Status verify_section(std::size_t index) const;

    AreaFile file_;
    Superblock superblock_;
    mutable std::mutex mutex_;  // guards verified_
    mutable std::vector<bool> verified_;
};

/// The CRC-32C of a section's bytes in use, read piece by piece.
Result<std::uint32_t> section_crc(const AreaFile& file, const Section& section);
/// Reads and decodes `out.size()` words of an entry section from page `first` on, as they are on disk.
Status read_raw_entries(const AreaFile& file, const Section& entries, std::uint64_t first, std::span<std::uint64_t> out);

}  // namespace snapvm
