// SPDX-License-Identifier: Apache-2.0
// Corrects the checksums of a changed area, so that a reader gets past them.
#pragma once

#include <cstring>
#include <span>

#include "snapshot/format/superblock.h"
#include "vmm/base/crc32c.h"

namespace snapvm::test {

/// Signs the records of a state section, as far as they are within it.
inline void sign_records(std::span<std::byte> state) {
    constexpr std::size_t kHeader = 16;
    for (std::size_t at = 8; at + kHeader <= state.size();) {
        std::uint32_t length = 0;
        std::memcpy(&length, state.data() + at + 8, sizeof length);
        if (length > state.size() - at - kHeader) {
            return;
        }
        const std::uint32_t crc = crc32c(state.subspan(at + kHeader, length), crc32c(state.subspan(at, 12)));
        std::memcpy(state.data() + at + 12, &crc, sizeof crc);
        at += kHeader + length;
    }
}

/// Signs the state's records and the sections that lie within `area` (but data, whose pages have
/// checksums of their own), then the section tables over them, then the headers. `area` need not be
/// one: other bytes are signed as if they were.
inline void sign_area(std::span<std::byte> area) {
    constexpr std::size_t kRow = 40;
    const auto put = [&](std::size_t at, std::uint32_t crc) { std::memcpy(area.data() + at, &crc, sizeof crc); };
    for (std::size_t base = 0; base + kSuperblockSize <= area.size() && base < kSlotsStart; base += kSuperblockSize) {
        const auto table = area.subspan(base + kSuperblockHeaderSize, kSectionTableSize);
        for (std::size_t row = 0; row + kRow <= table.size(); row += kRow) {
            std::uint32_t kind = 0;
            std::uint64_t offset = 0;
            std::uint64_t length = 0;
            std::memcpy(&kind, table.data() + row, sizeof kind);
            std::memcpy(&offset, table.data() + row + 8, sizeof offset);
            std::memcpy(&length, table.data() + row + 24, sizeof length);
            const auto as_kind = static_cast<SectionKind>(kind);
            const bool whole = offset <= area.size() && length <= area.size() - offset;
            if (whole && as_kind == SectionKind::state) {
                sign_records(area.subspan(offset, length));
            }
            if (kind != 0 && as_kind != SectionKind::data && whole) {
                put(base + kSuperblockHeaderSize + row + 32, crc32c(area.subspan(offset, length)));
            }
        }
        put(base + 116, crc32c(table));
        put(base + kSuperblockHeaderSize - 4, crc32c(area.subspan(base, kSuperblockHeaderSize - 4)));
    }
}

}  // namespace snapvm::test
