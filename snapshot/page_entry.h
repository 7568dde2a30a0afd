// SPDX-License-Identifier: Apache-2.0
// The 8 bytes an area keeps of every page (FORMAT.md, "Page entries").
#pragma once

#include <cstdint>
#include <span>

#include "vmm/base/error.h"
#include "vmm/memory/block.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

/// One entry, decoded. `checksum` is that of classes common and swapped; `shares` is the page that a shared one repeats, counted
/// over all blocks in block-list order.
struct PageEntry {
    PageClass page_class = PageClass::absent;
    std::uint32_t checksum = 0;
    std::uint64_t shares = 0;

    friend bool operator==(const PageEntry&, const PageEntry&) = default;
    [[nodiscard]] std::uint64_t encode() const;
    /// ErrorKind::invalid for an unknown class, flags, or bits in use that the class does not have.
    static Result<PageEntry> decode(std::uint64_t raw);
};

/// CRC-32C of a 16-byte salt (block id, page number: two u64) and the page's bytes, so that a page in the wrong place is found too.
[[nodiscard]] std::uint32_t page_checksum(BlockId block, std::uint64_t page, std::span<const std::byte> bytes);

}  // namespace snapvm
