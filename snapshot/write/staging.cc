// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "vmm/base/try.h"

namespace snapvm {

Result<Staging> Staging::of(std::span<const MemoryBlock> blocks, std::uint64_t capacity) {
    Staging staging;
    staging.capacity_ = capacity;
    const std::uint64_t bytes = align_up(std::max(capacity, std::uint64_t{1}) * kPageSize, kHugePageSize);
    staging.memory_ = TRY(Mapping::anonymous(bytes, kHugePageSize));
    (void)::madvise(staging.memory_.data(), bytes, MADV_HUGEPAGE);  // without it filling takes more faults
    for (const MemoryBlock& block : blocks) {
        staging.index_.push_back(TRY(PageArray<std::uint32_t>::of(block.spec().pages())));
    }
    staging.staged_ = DirtySet(blocks);
    return staging;
}

std::uint64_t Staging::missing(const DirtySet& pages) const {
    std::uint64_t more = 0;
    for (std::size_t block = 0; block < pages.blocks(); ++block) {
        const auto there = staged_.words(block);
        const auto wanted = pages.words(block);
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            more += static_cast<std::uint64_t>(std::popcount(wanted[i] & ~there[i]));
        }
    }
    return more;
}

void Staging::prepare(std::uint64_t pages) {
    const std::uint64_t want = std::min(capacity_, used() + pages) * kPageSize;
    while (prepared_ < want) {
        // With huge pages the first write populates all 2 MiB, without them each write one page.
        for (std::uint64_t at = prepared_; at < std::min(prepared_ + kHugePageSize, memory_.size()); at += kPageSize) {
            *static_cast<volatile std::byte*>(memory_.data() + at) = std::byte{0};
        }
        prepared_ += kHugePageSize;
    }
}

void Staging::put(std::size_t block, std::uint64_t page, const MemoryBlock& from) {
    std::uint32_t& slot_plus_one = index_[block][page];
    if (slot_plus_one == 0) {
        keys_.push_back({block, page});
        types_.push_back(PageType::normal);
        staged_.add(block, page);
        slot_plus_one = static_cast<std::uint32_t>(keys_.size());
        peak_ = std::max<std::uint64_t>(peak_, keys_.size());
        prepare(0);
    }
    types_[slot_plus_one - 1] = from.types().touched() ? from.types().get(page) : PageType::normal;
    std::memcpy(bytes(slot_plus_one - 1).data(), from.page(page).data(), kPageSize);
}

void Staging::clear() {
    for (const Key& key : keys_) {
        index_[key.block][key.page] = 0;
    }
    keys_.clear();
    types_.clear();
    staged_.clear();
}

}  // namespace snapvm
