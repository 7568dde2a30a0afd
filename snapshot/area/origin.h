// SPDX-License-Identifier: Apache-2.0
// The snapshot that a restored machine's memory maps. It stays pinned for as long as any of the
// machine's blocks maps it.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "snapshot/area/area_file.h"
#include "snapshot/format/superblock.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// Holds the area's descriptor, and with it the OFD read lock on the slot. Any thread may call it.
class SnapshotOrigin final : public PageOrigin {
public:
    /// `file` must hold the lock already. `superblock` must be valid and complete.
    SnapshotOrigin(AreaFile file, Superblock superblock)
        : file_(std::move(file)), superblock_(std::move(superblock)), verified_(superblock_.sections.size()) {}

    [[nodiscard]] std::string_view name() const override { return file_.name; }
    /// Verifies the checksum over all entries of a block before it returns the first of them.
    /// Without that a damaged class would pass into the next snapshot unnoticed. A shared page has
    /// the checksum of the page that it repeats, for its own place. Fails with invalid if it names
    /// no page that has one.
    Status read_entries(BlockId id, std::uint64_t first, std::span<Entry> out) const override;
    /// Returns the same entries as stored on disk, not decoded: a shared one names the page it
    /// repeats.
    Status read_words(BlockId id, std::uint64_t first, std::span<std::uint64_t> out) const;
    Status read_data(BlockId id, std::uint64_t first, std::span<std::byte> out) const override;

    [[nodiscard]] const AreaFile& file() const { return file_; }
    [[nodiscard]] const Superblock& superblock() const { return superblock_; }

private:
    class NamedEntries;
    Status verify_section(std::size_t index) const;

    AreaFile file_;
    Superblock superblock_;
    mutable std::mutex mutex_;  // guards verified_
    mutable std::vector<bool> verified_;
};

/// Returns the CRC-32C of the section's bytes in use. Reads them in pieces.
Result<std::uint32_t> section_crc(const AreaFile& file, const Section& section);
/// Reads `out.size()` entries of an entries section from page `first` on, as stored on disk. Does
/// not decode or verify them.
Status read_raw_entries(const AreaFile& file, const Section& entries, std::uint64_t first,
                        std::span<std::uint64_t> out);

}  // namespace snapvm
