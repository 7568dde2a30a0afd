// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/page_table.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

#include "snapshot/format/runs.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kHugePages = kHugePageSize / kPageSize;

// Returns the whole 2 MiB ranges within a run without data; an empty run if there are none.
PlanRun huge_part(const BlockSpec& spec, std::uint64_t first, std::uint64_t count) {
    const std::uint64_t from = align_up(first, kHugePages);
    const std::uint64_t to = align_down(first + count, kHugePages);
    const bool possible = spec.base.value % kHugePageSize == 0 && from < to;
    return {spec.id, from, possible ? to - from : 0};
}

// A hash table of the first page with each hash. Open addressing, a quarter to half full. Pages are
// numbered over all blocks.
class FirstPages {
public:
    static Result<FirstPages> of(std::uint64_t pages) {
        FirstPages table;
        // A secret determines the slot of a hash. Otherwise a guest could make pages whose hashes
        // collide, and this would take hours.
        if (::getrandom(table.secret_.data(), sizeof table.secret_, 0) != static_cast<ssize_t>(sizeof table.secret_)) {
            return fail(Error::system("getrandom", "page hashes", errno));
        }
        const std::uint64_t size = std::bit_ceil(std::max<std::uint64_t>(pages * 2, 2));
        table.slots_ = TRY(PageArray<Slot>::of(size));
        table.mask_ = size - 1;
        return table;
    }
    /// Returns the page that came with this hash first, or `page` if there is none before.
    std::uint64_t first_with(const PageHash& hash, std::uint64_t page) {
        for (std::uint64_t at = place_of(hash) & mask_;; at = (at + 1) & mask_) {
            Slot& slot = slots_[at];
            if (slot.page_plus_one == 0) {
                slot = {hash, page + 1};
                return page;
            }
            if (slot.hash == hash) {
                return slot.page_plus_one - 1;
            }
        }
    }

private:
    struct Slot {
        PageHash hash;
        std::uint64_t page_plus_one = 0;  // 0: the slot is free
    };
    [[nodiscard]] std::uint64_t place_of(const PageHash& hash) const {
        __extension__ using Wide = unsigned __int128;
        const Wide product = Wide{hash.low ^ secret_[0]} * (hash.high ^ secret_[1]);
        return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    }
    std::array<std::uint64_t, 2> secret_{};
    PageArray<Slot> slots_;
    std::uint64_t mask_ = 0;
};

}  // namespace

Result<PageTable> PageTable::of(std::span<const MemoryBlock> blocks) {
    PageTable table;
    for (const MemoryBlock& block : blocks) {
        const std::uint64_t pages = block.spec().pages();
        table.blocks_.push_back(
            {block.spec(), TRY(PageArray<std::uint64_t>::of(pages)), TRY(PageArray<PageHash>::of(pages))});
    }
    return table;
}

void PageTable::set(std::size_t block, std::uint64_t page, const PageFacts& facts) {
    Block& place = blocks_[block];
    const std::uint64_t word = facts.entry.encode();
    // Does not write equal values: most pages of a large guest are absent, and their entries take
    // no memory.
    if (place.entries[page] != word) {
        place.entries[page] = word;
    }
    if (snapvm::has_data(facts.entry.page_class)) {
        place.hashes[page] = facts.hash;
    }
}

bool PageTable::has_data(std::size_t block, std::uint64_t page) const {
    return snapvm::has_data(class_of(blocks_[block].entries[page]));
}

Result<PageTable::Resolved> PageTable::resolve() const {
    Resolved resolved;
    std::uint64_t with_data = 0;
    for (const Block& block : blocks_) {
        with_data += static_cast<std::uint64_t>(std::ranges::count_if(
            block.entries.all(), [](std::uint64_t word) { return snapvm::has_data(class_of(word)); }));
    }
    FirstPages first_pages = TRY(FirstPages::of(with_data));
    std::uint64_t base = 0;
    for (const Block& block : blocks_) {
        RunJoiner without_data([&](std::uint64_t first, std::uint64_t count) {
            if (const PlanRun run = huge_part(block.spec, first, count); run.count > 0) {
                resolved.plan.push_back(run);
            }
            return Status{};
        });
        auto words = TRY(PageArray<std::uint64_t>::of(block.entries.pages()));
        for (std::uint64_t page = 0; page < block.entries.pages(); ++page) {
            std::uint64_t word = block.entries[page];
            if (class_of(word) == PageClass::common) {
                const std::uint64_t first = first_pages.first_with(block.hashes[page], base + page);
                if (first != base + page) {
                    word = PageEntry{PageClass::shared, 0, first}.encode();
                }
            } else if (!snapvm::has_data(class_of(word))) {
                TRY(without_data.add(page));
            }
            if (word != 0) {
                words[page] = word;
            }
            ++resolved.counts[static_cast<std::size_t>(class_of(word))];
        }
        TRY(without_data.flush());
        resolved.entries.push_back(std::move(words));
        base += block.entries.pages();
    }
    std::ranges::stable_sort(resolved.plan, std::ranges::greater{}, &PlanRun::count);
    resolved.plan.resize(std::min(resolved.plan.size(), kMaxPlanRuns));
    return resolved;
}

}  // namespace snapvm
