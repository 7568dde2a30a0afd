// SPDX-License-Identifier: Apache-2.0
// Determines the class of each page, its checksum, and the hash by which equal pages are found.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/format/page_entry.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"
#include "vmm/memory/population.h"

namespace snapvm {

/// The 128-bit XXH3 hash of a page's bytes.
struct PageHash {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    friend bool operator==(const PageHash&, const PageHash&) = default;
};

/// What is known of one page by itself. Class shared is assigned once all pages are known
/// (page_table.h).
struct PageFacts {
    PageEntry entry;
    PageHash hash;  ///< of classes with data
};

/// Classifies a page whose bytes do not change meanwhile. `type` is its type in the page-type table
/// when the bytes were taken. A type that means "given up" counts only if all bytes are zero: a
/// guest uses pages that it has reported free, and some guests pages of the balloon, without
/// telling the host. Contents take precedence.
[[nodiscard]] PageFacts classify_page(BlockId block, std::uint64_t page, std::span<const std::byte> bytes,
                                      PageType type);

/// Classifies a range of pages of one block without populating any. Pages that were never touched
/// are not read. Pages that a restored machine never wrote keep the class and checksum of its
/// snapshot, so damage to the old snapshot's data does not get a new checksum and is still found.
/// While the guest runs, a result is valid only if the page is not written after it was armed
/// (dirty_feed.h). One thread.
class Classifier {
public:
    explicit Classifier(PopulationScanner scanner) : scanner_(std::move(scanner)) {}

    /// Fills `out` for page `first` and those after it.
    Status classify(const MemoryBlock& block, std::uint64_t first, std::span<PageFacts> out);

private:
    PopulationScanner scanner_;
    std::vector<Population> population_;
    std::vector<PageOrigin::Entry> origin_;
};

}  // namespace snapvm
