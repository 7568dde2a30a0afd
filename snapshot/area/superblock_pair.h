// SPDX-License-Identifier: Apache-2.0
// Both superblocks of an area, and the rules that tell which snapshot it holds (FORMAT.md, "Which
// snapshot an area holds").
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "snapshot/area/area_file.h"
#include "snapshot/format/superblock.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Two superblocks of untrusted bytes, each decoded as far as possible.
struct SuperblockPair {
    struct Copy {
        std::optional<Superblock> valid;
        std::optional<Error> problem;   ///< why it is not valid
        /// Its header, without sections, if its section table alone is damaged.
        std::optional<Superblock> header;
        bool blank = false;             ///< all zeros
        std::uint32_t table_crc = 0;    ///< CRC of the section table's bytes on disk
    };
    std::array<Copy, kSuperblockCopies> copies;
    std::array<std::byte, kSlotsStart> bytes{};

    /// Decodes `bytes`. `name` names the area in messages.
    void decode(std::string_view name);
    /// Reads the first 8 KiB of the area. Bytes behind the end of the file count as zeros.
    static Result<SuperblockPair> read(const AreaFile& file);

    [[nodiscard]] bool blank() const { return copies[0].blank && copies[1].blank; }
    /// Whether one of them begins with the magic.
    [[nodiscard]] bool has_magic() const;
    /// Returns a valid superblock, whose area size and slots can be used; null if neither is valid.
    [[nodiscard]] const Superblock* any() const;
    [[nodiscard]] std::uint64_t highest_sequence() const;
    /// Returns the newest complete superblock by the rules of FORMAT.md, whether or not the other
    /// one is damaged; null if there is none.
    [[nodiscard]] const Superblock* newest_complete() const;

    /// Returns the superblock of the snapshot that a restore uses. Fails with invalid if this is
    /// not an area or one superblock is damaged, with unsupported if the version is newer, and with
    /// incomplete if there is no complete snapshot. A crash cannot damage a superblock, so damage
    /// is never passed over silently. With two slots a damaged section table of the older snapshot
    /// is passed over, because its header says that it is older; what_is_lost() tells of it. With
    /// `salvage`, one valid superblock is enough.
    Result<const Superblock*> choose(std::string_view name, bool salvage) const;

    /// Returns a line that says which superblock is damaged, and which snapshot is lost with it;
    /// empty if none is.
    [[nodiscard]] std::string what_is_lost() const;

private:
    [[nodiscard]] bool is_damaged_older(const Copy& copy) const;
};

}  // namespace snapvm
