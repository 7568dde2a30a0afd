// SPDX-License-Identifier: Apache-2.0
// The superblock of a snapshot area: the shape of the area, the snapshot that it holds, and the
// places of its sections (FORMAT.md, "Superblock").
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"
#include "vmm/memory/block.h"

namespace snapvm {

inline constexpr std::uint16_t kFormatMajor = 1;
inline constexpr std::uint16_t kFormatMinor = 0;
inline constexpr std::uint64_t kSuperblockSize = 4096;
/// The header is one sector of 512 bytes, which every disk writes whole or not at all. The section
/// table fills the rest of the block.
inline constexpr std::size_t kSuperblockHeaderSize = 512;
inline constexpr std::size_t kSectionTableSize = kSuperblockSize - kSuperblockHeaderSize;
inline constexpr std::uint64_t kSuperblockCopies = 2;
inline constexpr std::uint64_t kSlotsStart = kSuperblockCopies * kSuperblockSize;
inline constexpr std::size_t kMaxBlocks = 32;

/// The numbers are stored on disk and must never change.
enum class SectionKind : std::uint32_t {
    metadata = 1,
    start = 2,
    entries = 3,
    plan = 4,
    state = 5,
    disks = 6,
    working_set = 7,
    data = 8,
};
[[nodiscard]] std::string_view name_of(SectionKind kind);

/// One row of the section table. `offset` is in bytes from the start of the area. `length` of
/// `capacity` bytes are in use. `crc` covers the bytes in use; it is 0 for data, whose pages have
/// checksums of their own.
struct Section {
    SectionKind kind{};
    std::uint32_t block = 0;  ///< BlockId for entries and data, 0 for the others
    std::uint64_t offset = 0;
    std::uint64_t capacity = 0;
    std::uint64_t length = 0;
    std::uint32_t crc = 0;

    friend bool operator==(const Section&, const Section&) = default;
};

enum class SlotState : std::uint32_t { writing = 1, complete = 2 };

/// One decoded superblock.
struct Superblock {
    std::uint64_t area_size = 0;
    /// 0: no snapshot was ever written, and everything behind the superblocks reads as zeros
    std::uint64_t sequence = 0;
    Uuid machine_id;
    Uuid snapshot_id;
    SlotState state = SlotState::writing;
    std::uint32_t slots = 1;
    std::uint32_t slot = 0;
    std::uint32_t cpus = 0;
    std::uint64_t slot_offset = 0;
    std::uint64_t slot_size = 0;
    std::uint64_t memory_bytes = 0;
    std::uint64_t created_us = 0;  ///< microseconds since the Unix epoch
    std::uint32_t table_crc = 0;  ///< CRC of the section table on disk
    std::vector<Section> sections;  ///< empty while `writing`: the table on disk is not valid then

    /// Returns the section; null if there is none.
    [[nodiscard]] const Section* find(SectionKind kind, std::uint32_t block = 0) const;

    /// Encodes the header sector with its checksum. Does not compute `table_crc`: the caller sets
    /// it.
    [[nodiscard]] std::array<std::byte, kSuperblockHeaderSize> encode_header() const;
    /// Encodes the section table, padded with zeros to kSectionTableSize. At most kMaxBlocks blocks
    /// fit.
    [[nodiscard]] std::vector<std::byte> encode_table() const;

    /// Decodes the header alone, and leaves `sections` empty. Fails as decode() does.
    static Result<Superblock> decode_header(std::span<const std::byte> block, std::string_view where);
    /// Decodes one superblock from kSuperblockSize untrusted bytes. Checks magic, version, checksum
    /// and reserved bytes, and for a complete superblock the section table and the place of each
    /// section. Fails with unsupported for another version, and names both versions; otherwise with
    /// invalid. `where` names the superblock in messages.
    static Result<Superblock> decode(std::span<const std::byte> block, std::string_view where);
};

/// Whether the bytes begin with the magic, which is the same in every version.
[[nodiscard]] bool has_area_magic(std::span<const std::byte> block);
/// Whether all bytes are zero.
[[nodiscard]] bool is_all_zero(std::span<const std::byte> bytes);

}  // namespace snapvm
