// SPDX-License-Identifier: Apache-2.0
// What a snapshot will say of every page, while it is being made; kept afterwards, it is what the next one starts from.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/classify.h"
#include "snapshot/page_array.h"
#include "snapshot/sections.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// Facts of all pages; blocks by their place in block-list order. A page written again has its facts replaced, and classes that follow
/// from several pages (shared) are settled anew from all, so no entry names a page that has changed.
class PageTable {
public:
    static Result<PageTable> of(std::span<const MemoryBlock> blocks);

    void set(std::size_t block, std::uint64_t page, const PageFacts& facts);
    [[nodiscard]] bool has_data(std::size_t block, std::uint64_t page) const;
    [[nodiscard]] std::uint64_t pages(std::size_t block) const { return blocks_[block].entries.pages(); }
    [[nodiscard]] std::size_t blocks() const { return blocks_.size(); }

    /// What goes into the entries sections.
    struct Settled {
        std::vector<PageArray<std::uint64_t>> entries;  ///< encoded, by block
        std::array<std::uint64_t, kPageClassCount> counts{};
        std::vector<PlanRun> plan;  ///< the longest runs without data, longest first
    };
    /// Finds equal pages: each but the first becomes shared, naming the first.
    Result<Settled> settle() const;

private:
    struct Block {
        BlockSpec spec;
        PageArray<std::uint64_t> entries;  ///< encoded, nothing shared; 0 is absent
        PageArray<PageHash> hashes;
    };
    std::vector<Block> blocks_;
};

}  // namespace snapvm
