// SPDX-License-Identifier: Apache-2.0
// A set of written pages: one bit for each page, block by block.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/memory/block.h"

namespace snapvm {

/// Joins the set bits of `words` into runs of pages and calls `visit(first, count)` for each run.
/// `visit` returns a Status; an error ends the walk and is returned.
template <class Visit>
Status for_each_run(std::span<const std::uint64_t> words, std::uint64_t pages, Visit visit) {
    const auto next = [&](std::uint64_t from, bool set) {
        for (std::uint64_t word = from / 64; word < words.size(); ++word) {
            std::uint64_t bits = set ? words[word] : ~words[word];
            if (word == from / 64) {
                bits &= ~0ULL << from % 64;
            }
            if (bits != 0) {
                return std::min(pages, word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits)));
            }
        }
        return pages;
    };
    for (std::uint64_t first = next(0, true); first < pages;) {
        const std::uint64_t end = next(first, false);
        if (Status status = visit(first, end - first); !status) {
            return status;
        }
        first = end < pages ? next(end, true) : pages;
    }
    return {};
}

/// A set of a machine's pages. Blocks are numbered by their place in the block list. One thread
/// uses it at a time.
class DirtySet {
public:
    DirtySet() = default;
    /// Makes an empty set for these blocks.
    explicit DirtySet(std::span<const MemoryBlock> blocks);

    /// Returns a block's bits: page p is bit `p % 64` of word `p / 64`. Bits past the block's end
    /// are 0.
    [[nodiscard]] std::span<std::uint64_t> words(std::size_t block) { return blocks_[block].words; }
    [[nodiscard]] std::span<const std::uint64_t> words(std::size_t block) const { return blocks_[block].words; }
    [[nodiscard]] std::uint64_t pages(std::size_t block) const { return blocks_[block].pages; }
    [[nodiscard]] std::size_t blocks() const { return blocks_.size(); }

    void add(std::size_t block, std::uint64_t page) { blocks_[block].words[page / 64] |= 1ULL << page % 64; }
    [[nodiscard]] bool has(std::size_t block, std::uint64_t page) const {
        return (blocks_[block].words[page / 64] >> page % 64 & 1) != 0;
    }
    void add_all();
    void add(const DirtySet& other);
    void clear();
    [[nodiscard]] std::uint64_t count() const;

private:
    struct Block {
        std::uint64_t pages = 0;
        std::vector<std::uint64_t> words;
    };
    std::vector<Block> blocks_;
};

}  // namespace snapvm
