// SPDX-License-Identifier: Apache-2.0
// The 8 bytes that an area stores for each page (FORMAT.md, "Page entries").
#pragma once

#include <cstdint>
#include <span>

#include "vmm/base/error.h"
#include "vmm/memory/block.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

/// One decoded entry. `checksum` is valid for classes common and swapped. `shares` is valid for
/// class shared: the number of the page that it repeats, counted over all blocks in block-list
/// order.
struct PageEntry {
    PageClass page_class = PageClass::absent;
    std::uint32_t checksum = 0;
    std::uint64_t shares = 0;

    friend bool operator==(const PageEntry&, const PageEntry&) = default;
    [[nodiscard]] std::uint64_t encode() const;
    /// Fails with invalid for an unknown class, or for set bits that the class does not use.
    static Result<PageEntry> decode(std::uint64_t raw);
};

/// Returns the class in an encoded entry. Checks nothing: for entries that this program encoded.
[[nodiscard]] constexpr PageClass class_of(std::uint64_t encoded) { return static_cast<PageClass>(encoded & 0xFF); }

/// Returns the CRC-32C of a 16-byte salt (block id and page number, two u64) and the page's bytes.
/// With the salt, a page in the wrong place has a wrong checksum.
[[nodiscard]] std::uint32_t page_checksum(BlockId block, std::uint64_t page, std::span<const std::byte> bytes);

/// A page by its block and its number in it.
struct PagePlace {
    BlockId block{};
    std::uint64_t page = 0;
};
/// Returns the checksum that a page's bytes have at `to`, from the one that they have at `from`.
/// Needs no bytes: a CRC is linear, so the difference of two salts determines that of the
/// checksums.
[[nodiscard]] std::uint32_t checksum_at(PagePlace to, PagePlace from, std::uint32_t checksum);

}  // namespace snapvm
