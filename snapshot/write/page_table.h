// SPDX-License-Identifier: Apache-2.0
// The class, checksum and hash of every page, while a snapshot is made. It is kept afterwards, if
// the next snapshot is to start from it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/format/page_array.h"
#include "snapshot/format/sections.h"
#include "snapshot/write/classify.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// Facts of all pages; blocks are named by their position in block-list order. set() replaces the
/// facts of a page. resolve() derives class shared, which depends on several pages, anew from all
/// facts, so no entry names a page that has changed.
class PageTable {
public:
    static Result<PageTable> of(std::span<const MemoryBlock> blocks);

    void set(std::size_t block, std::uint64_t page, const PageFacts& facts);
    [[nodiscard]] bool has_data(std::size_t block, std::uint64_t page) const;
    [[nodiscard]] std::uint64_t pages(std::size_t block) const { return blocks_[block].entries.pages(); }
    [[nodiscard]] std::size_t blocks() const { return blocks_.size(); }

    /// The contents of the entries sections, and the map plan.
    struct Resolved {
        std::vector<PageArray<std::uint64_t>> entries;  ///< encoded, by block
        std::array<std::uint64_t, kPageClassCount> counts{};
        std::vector<PlanRun> plan;  ///< the longest runs without data, longest first, at most kMaxPlanRuns
    };
    /// Finds equal pages. Each but the first becomes shared and names the first.
    Result<Resolved> resolve() const;

private:
    struct Block {
        BlockSpec spec;
        PageArray<std::uint64_t> entries;  ///< encoded, none is shared; 0 is class absent
        PageArray<PageHash> hashes;
    };
    std::vector<Block> blocks_;
};

}  // namespace snapvm
