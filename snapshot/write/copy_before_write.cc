// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/copy_before_write.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Pages are saved and released in units of a huge page, because a smaller range would split it.
constexpr std::uint64_t kUnitPages = kHugePageSize / kPageSize;
constexpr std::uint64_t kUnitWords = kUnitPages / 64;
// The least capacity of a store, 4 units. copy() also saves this number of pages with mutex_ held,
// before a vCPU that waits gets its turn.
constexpr std::uint64_t kLeastPages = 4 * kUnitPages;
// The most units that one call protects. mutex_ is held meanwhile, so no fault is served.
constexpr std::uint64_t kMostUnits = 4;

// Returns the words of the bitmap that belong to one unit.
template <class Set>
auto words_of(Set& pages, std::size_t block, std::uint64_t first) {
    const auto all = pages.words(block);
    const std::uint64_t word = first / 64;
    return all.subspan(word, std::min<std::uint64_t>(kUnitWords, all.size() - word));
}

std::uint64_t count_of(std::span<const std::uint64_t> words) {
    std::uint64_t count = 0;
    for (const std::uint64_t word : words) {
        count += static_cast<std::uint64_t>(std::popcount(word));
    }
    return count;
}

}  // namespace

CopyBeforeWrite::CopyBeforeWrite(const GuestMemory& memory, std::array<Staging, 2> stores, CopyHooks hooks)
    : blocks_(memory.blocks()), hooks_(std::move(hooks)), stores_(std::move(stores)), unsaved_(memory.blocks()) {
    for (const MemoryBlock& block : blocks_) {
        protected_.emplace_back((block.spec().pages() + kUnitPages - 1) / kUnitPages);
    }
}

Result<std::unique_ptr<CopyBeforeWrite>> CopyBeforeWrite::prepare(const GuestMemory& memory, std::uint64_t store_pages,
                                                                  CopyHooks hooks) {
    const std::uint64_t each = std::max(store_pages / 2, kLeastPages);
    std::array<Staging, 2> stores{TRY(Staging::of(memory.blocks(), each)), TRY(Staging::of(memory.blocks(), each))};
    std::unique_ptr<CopyBeforeWrite> self(new CopyBeforeWrite(memory, std::move(stores), std::move(hooks)));
    self->protector_ = TRY(WriteProtector::over(memory, *self));
    for (Staging& store : self->stores_) {
        store.prepare(kLeastPages);
    }
    return self;
}

// Protects the units of `pages` that are not protected yet. `mutex_` must be held; `between` may
// release it for a moment.
Result<std::uint64_t> CopyBeforeWrite::protect_units(const DirtySet& pages, const std::function<void()>& between) {
    std::uint64_t done = 0;
    for (std::size_t block = 0; block < pages.blocks(); ++block) {
        std::vector<bool>& is_protected = protected_[block];
        const auto wanted = [&](std::uint64_t unit) {
            return unit < is_protected.size() && !is_protected[unit] &&
                   count_of(words_of(pages, block, unit * kUnitPages)) > 0;
        };
        for (std::uint64_t unit = 0; unit < is_protected.size(); ++unit) {
            between();
            if (failure_) {
                return fail(*failure_);
            }
            std::uint64_t count = 0;
            for (; count < kMostUnits && wanted(unit + count); ++count) {
                is_protected[unit + count] = true;
            }
            if (count > 0) {
                const std::uint64_t first = unit * kUnitPages;
                TRY(protector_->protect({block, first, std::min(count * kUnitPages, pages.pages(block) - first)}));
                unit += count - 1;
                done += count;
            }
        }
    }
    return done;
}

Result<std::uint64_t> CopyBeforeWrite::protect_ahead(const DirtySet& pages) {
    std::unique_lock lock(mutex_);
    return protect_units(pages, [&] {
        lock.unlock();  // lets faults be answered
        lock.lock();
    });
}

Status CopyBeforeWrite::protect(DirtySet pages) {
    // One critical section: the faults thread may have read a fault of before the pause and not
    // handled it. If it released that unit after this loop, the guest could write to pages that
    // count as protected.
    const std::lock_guard lock(mutex_);
    TRY(protect_units(pages, [] {}));
    hooks_.protecting();
    unsaved_ = std::move(pages);
    taken_ = true;
    return {};
}

bool CopyBeforeWrite::has_room(const Unit& unit) const {
    return count_of(words_of(unsaved_, unit.block, unit.first)) <= stores_[open_].room();
}

// Copies those pages of a unit that are not saved yet into the open store and ends its protection.
Status CopyBeforeWrite::save(const Unit& unit) {
    const std::span<std::uint64_t> words = words_of(unsaved_, unit.block, unit.first);
    const std::uint64_t pages = std::min(kUnitPages, unsaved_.pages(unit.block) - unit.first);
    (void)for_each_run(words, pages, [&](std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t page = unit.first + first; page < unit.first + first + count; ++page) {
            stores_[open_].put(unit.block, page, blocks_[unit.block]);
        }
        return Status{};
    });
    std::ranges::fill(words, 0);
    return release(unit);
}

Status CopyBeforeWrite::release(const Unit& unit) {
    protected_[unit.block][unit.first / kUnitPages] = false;
    return protector_->release({unit.block, unit.first, std::min(kUnitPages, unsaved_.pages(unit.block) - unit.first)});
}

// Called by the faults thread, which must not wait for room: write_stores() saves the unit then.
Result<bool> CopyBeforeWrite::answer(const Fault& fault) {
    const Unit unit{fault.block, fault.page / kUnitPages * kUnitPages};
    hooks_.fault_read();
    const std::lock_guard lock(mutex_);
    if (!taken_) {
        TRY(release(unit));  // the instant has not come: the guest may write
    } else if (has_room(unit)) {
        TRY(save(unit));
    } else if (std::ranges::find(waiting_, unit) == waiting_.end()) {
        waiting_.push_back(unit);
    }
    return true;
}

void CopyBeforeWrite::failed(const Error& error) {
    const std::lock_guard lock(mutex_);
    failure_ = error;
}

// Saves what writers wait for, as far as there is room.
Status CopyBeforeWrite::save_waiting() {
    for (const Unit& unit : std::exchange(waiting_, {})) {
        if (has_room(unit)) {
            TRY(save(unit));
        } else {
            waiting_.push_back(unit);
        }
    }
    return {};
}

std::optional<CopyBeforeWrite::Unit> CopyBeforeWrite::next_unit() {
    for (; cursor_.block < unsaved_.blocks(); cursor_ = {cursor_.block + 1, 0}) {
        for (; cursor_.first < unsaved_.pages(cursor_.block); cursor_.first += kUnitPages) {
            if (count_of(words_of(unsaved_, cursor_.block, cursor_.first)) != 0) {
                return cursor_;
            }
        }
    }
    return std::nullopt;
}

Status CopyBeforeWrite::write_stores(SnapshotJob& job) {
    while (true) {
        Staging* full = nullptr;
        {
            const std::lock_guard lock(mutex_);
            if (failure_) {
                return fail(*failure_);
            }
            Staging& store = stores_[open_];
            const std::uint64_t enough = store.used() + kLeastPages;
            for (auto unit = next_unit(); unit && has_room(*unit) && store.used() < enough; unit = next_unit()) {
                TRY(save(*unit));
            }
            if (store.used() == 0) {
                return {};  // everything is saved, and the other store is written already
            }
            full = &store;
            open_ = 1 - open_;
            TRY(save_waiting());
        }
        TRY(job.write_staged(*full));
        TRY(job.drain());
        const std::lock_guard lock(mutex_);
        full->clear();
    }
}

Status CopyBeforeWrite::copy(SnapshotJob& job) {
    Status written = write_stores(job);
    protector_->lift();
    return written;
}

}  // namespace snapvm
