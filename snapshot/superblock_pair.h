// SPDX-License-Identifier: Apache-2.0
// Both superblocks of an area, and which snapshot they say it holds (FORMAT.md, "Which snapshot an area holds").
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "snapshot/area_file.h"
#include "snapshot/superblock.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Untrusted superblocks, each decoded as far as it can be.
struct SuperblockPair {
    struct Copy {
        std::optional<Superblock> valid;
        std::optional<Error> problem;   ///< why it is not valid
        bool blank = false;             ///< all zeros
        std::uint32_t table_crc = 0;    ///< of the table bytes as they are
    };
    std::array<Copy, kSuperblockCopies> copies;
    std::array<std::byte, kSlotsStart> bytes{};

    /// Decodes `bytes` already in place.
    void decode(std::string_view name);
    /// Reads the first 8 KiB of the area; bytes past the end of the file count as zeros.
    static Result<SuperblockPair> read(const AreaFile& file);

    [[nodiscard]] bool blank() const { return copies[0].blank && copies[1].blank; }
    /// Whether either begins as a superblock of any version does.
    [[nodiscard]] bool has_magic() const;
    /// Any superblock that can be believed as to the area's size and slots; null when there is none.
    [[nodiscard]] const Superblock* any() const;
    [[nodiscard]] std::uint64_t highest_sequence() const;
    /// Complete and newest, by the rules of FORMAT.md, damage beside it ignored; null when there is none.
    [[nodiscard]] const Superblock* newest_complete() const;

    /// The snapshot that a restore uses. Errors: not an area (invalid), a newer version (unsupported), no complete snapshot
    /// (incomplete), or one of the superblocks damaged (invalid): a crash cannot do that, so it is never passed over
    /// silently, unless `salvage`, where one good superblock is enough.
    Result<const Superblock*> choose(std::string_view name, bool salvage) const;
};

}  // namespace snapvm
