// SPDX-License-Identifier: Apache-2.0
// Which class each page has (design.md, "Page classes"), its checksum, and the hash by which equal pages are found.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/page_entry.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"
#include "vmm/memory/population.h"

namespace snapvm {

/// XXH3, 128 bits, of a page's bytes.
struct PageHash {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    friend bool operator==(const PageHash&, const PageHash&) = default;
};

/// What a look at one page gives. Class shared comes later, when all pages are known (page_table.h).
struct PageFacts {
    PageEntry entry;
    PageHash hash;  ///< of classes with data
};

/// Of bytes that stand still. `type` is what the VMM knew of the page when they were taken. What it says of a page given up counts only
/// while the bytes are zeros: a guest uses what it has reported, and some what is in the balloon, without a word, and its contents go before.
[[nodiscard]] PageFacts classify_page(BlockId block, std::uint64_t page, std::span<const std::byte> bytes, PageType type);

/// Classifies block after block, a range at a time, without populating anything: pages never touched are not read, and those that a
/// restored machine never wrote keep the class and checksum that its snapshot recorded. So damage to the old snapshot's data is
/// carried along with the old checksum, and found, rather than given a new one. Where the guest runs, what it says of a page is a
/// moment's, and holds if the page is not written after it was armed (dirty_feed.h).
class Classifier {
public:
    explicit Classifier(PopulationScanner scanner) : scanner_(std::move(scanner)) {}

    /// Fills `out` for pages `first` and on.
    Status classify(const MemoryBlock& block, std::uint64_t first, std::span<PageFacts> out);

private:
    PopulationScanner scanner_;
    std::vector<Population> population_;
    std::vector<PageOrigin::Entry> origin_;
};

}  // namespace snapvm
