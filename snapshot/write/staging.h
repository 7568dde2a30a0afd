// SPDX-License-Identifier: Apache-2.0
// Copies of pages in memory, on their way to the destination.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/format/page_array.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// A store of a fixed number of pages, keyed by block and page. If a page is stored twice, the
/// newer copy replaces the older one. A copy to memory is faster than a guest whose tracked writes
/// fault; a copy to a disk is not. One thread.
class Staging {
public:
    /// Creates a store for `capacity` pages. It takes memory as it fills.
    static Result<Staging> of(std::span<const MemoryBlock> blocks, std::uint64_t capacity);

    [[nodiscard]] std::uint64_t capacity() const { return capacity_; }
    [[nodiscard]] std::uint64_t used() const { return keys_.size(); }
    [[nodiscard]] std::uint64_t peak() const { return peak_; }
    /// The pages that are stored.
    [[nodiscard]] const DirtySet& staged() const { return staged_; }
    [[nodiscard]] std::uint64_t room() const { return capacity_ - used(); }
    /// Returns how many of `pages` are not stored: each of them takes room.
    [[nodiscard]] std::uint64_t missing(const DirtySet& pages) const;
    /// Populates memory for `pages` more pages, so that they are stored without page faults.
    void prepare(std::uint64_t pages);

    /// Copies a page in. There must be room, or the page must be stored already.
    void put(std::size_t block, std::uint64_t page, const MemoryBlock& from);
    /// Calls visit(block, page, bytes, type), which returns a Status, for each page in ascending
    /// order. An error ends the walk.
    template <class Visit>
    Status for_each(Visit visit) const {
        for (std::size_t block = 0; block < staged_.blocks(); ++block) {
            Status done =
                for_each_run(staged_.words(block), staged_.pages(block), [&](std::uint64_t first, std::uint64_t count) {
                    for (std::uint64_t page = first; page < first + count; ++page) {
                        const std::uint32_t slot = index_[block][page] - 1;
                        if (Status status = visit(block, page, bytes(slot), types_[slot]); !status) {
                            return status;
                        }
                    }
                    return Status{};
                });
            if (!done) {
                return done;
            }
        }
        return {};
    }
    /// Empties the store. No write from it may be in flight.
    void clear();

private:
    struct Key {
        std::size_t block = 0;
        std::uint64_t page = 0;
    };
    [[nodiscard]] std::span<std::byte> bytes(std::uint32_t slot) const {
        return memory_.bytes().subspan(std::uint64_t{slot} * kPageSize, kPageSize);
    }

    std::uint64_t capacity_ = 0;
    std::uint64_t peak_ = 0;
    std::uint64_t prepared_ = 0;
    Mapping memory_;
    std::vector<PageArray<std::uint32_t>> index_;  // by block and page: slot + 1; 0 if not stored
    std::vector<Key> keys_;
    std::vector<PageType> types_;
    DirtySet staged_;
};

}  // namespace snapvm
