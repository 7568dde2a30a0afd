// SPDX-License-Identifier: Apache-2.0
// The superblock of a snapshot area: what an area is, which snapshot it holds, and where its sections are (FORMAT.md, "Superblock").
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/machine/config.h"
#include "vmm/memory/block.h"

namespace snapvm {

inline constexpr std::uint16_t kFormatMajor = 1;
inline constexpr std::uint16_t kFormatMinor = 0;
inline constexpr std::uint64_t kSuperblockSize = 4096;
/// The header is one 512-byte sector, which every disk writes whole; the section table fills the rest of the block.
inline constexpr std::size_t kSuperblockHeaderSize = 512;
inline constexpr std::size_t kSectionTableSize = kSuperblockSize - kSuperblockHeaderSize;
inline constexpr std::uint64_t kSuperblockCopies = 2;
inline constexpr std::uint64_t kSlotsStart = kSuperblockCopies * kSuperblockSize;
inline constexpr std::size_t kMaxBlocks = 32;

/// The numbers are on disk: never renumber.
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

/// One line of the section table. Offsets are from the start of the area; `length` bytes of `capacity` are in use and covered by `crc`.
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

/// One superblock, decoded. Plain value.
struct Superblock {
    std::uint64_t area_size = 0;
    std::uint64_t sequence = 0;  ///< 0: no snapshot was ever written, and everything past the superblocks reads as zeros
    Uuid machine_id;
    Uuid snapshot_id;
    SlotState state = SlotState::writing;
    std::uint32_t slots = 1;
    std::uint32_t slot = 0;
    std::uint32_t cpus = 0;
    std::uint64_t slot_offset = 0;
    std::uint64_t slot_size = 0;
    std::uint64_t memory_bytes = 0;
    std::uint64_t created_us = 0;  ///< since the Unix epoch
    std::uint32_t table_crc = 0;  ///< of the section table as it stands on disk
    std::vector<Section> sections;  ///< empty while `writing`: the table on disk then belongs to nobody

    [[nodiscard]] const Section* find(SectionKind kind, std::uint32_t block = 0) const;

    /// The header sector, with its checksum; `table_crc` and the number of sections go in as they are.
    [[nodiscard]] std::array<std::byte, kSuperblockHeaderSize> encode_header() const;
    /// The section table, zero-padded to its full size. At most kMaxBlocks blocks.
    [[nodiscard]] std::vector<std::byte> encode_table() const;

    /// Decodes and validates one superblock of untrusted bytes (kSuperblockSize of them): magic, version (a newer one is
    /// ErrorKind::unsupported and names both), checksum, reserved bytes, and for a complete one the section table with the
    /// place of every section. `where` names it in errors.
    static Result<Superblock> decode(std::span<const std::byte> block, std::string_view where);
};

/// Whether the bytes begin as a superblock of any version does.
[[nodiscard]] bool has_area_magic(std::span<const std::byte> block);
/// Whether all bytes are zero.
[[nodiscard]] bool is_all_zero(std::span<const std::byte> bytes);

}  // namespace snapvm
