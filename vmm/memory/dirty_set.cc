// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/dirty_set.h"

#include <algorithm>

namespace snapvm {

DirtySet::DirtySet(std::span<const MemoryBlock> blocks) {
    for (const MemoryBlock& block : blocks) {
        blocks_.push_back({block.spec().pages(), std::vector<std::uint64_t>((block.spec().pages() + 63) / 64)});
    }
}

void DirtySet::add_all() {
    for (Block& block : blocks_) {
        std::ranges::fill(block.words, ~0ULL);
        if (const std::uint64_t rest = block.pages % 64; rest != 0) {
            block.words.back() = (1ULL << rest) - 1;
        }
    }
}

void DirtySet::add(const DirtySet& other) {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        std::ranges::transform(blocks_[i].words, other.blocks_[i].words, blocks_[i].words.begin(), std::bit_or<>());
    }
}

void DirtySet::clear() {
    for (Block& block : blocks_) {
        std::ranges::fill(block.words, 0ULL);
    }
}

std::uint64_t DirtySet::count() const {
    std::uint64_t pages = 0;
    for (const Block& block : blocks_) {
        for (const std::uint64_t word : block.words) {
            pages += static_cast<std::uint64_t>(std::popcount(word));
        }
    }
    return pages;
}

}  // namespace snapvm
