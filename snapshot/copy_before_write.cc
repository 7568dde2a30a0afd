// SPDX-License-Identifier: Apache-2.0
#include "snapshot/copy_before_write.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Saved and released together: less than a huge page would split it.
constexpr std::uint64_t kUnitPages = kHugePageSize / kPageSize;
constexpr std::uint64_t kUnitWords = kUnitPages / 64;
// A store holds at least 4 units; and as many are saved in a row by the writing thread before a guest that waits gets its turn.
constexpr std::uint64_t kLeastPages = 4 * kUnitPages;
// Protected with one call, while nobody can take a protection away.
constexpr std::uint64_t kMostUnits = 4;

// The bits of one unit.
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

CopyBeforeWrite::CopyBeforeWrite(std::span<const MemoryBlock> blocks, WriteProtector protector, std::array<Staging, 2> stores,
                                 UniqueFd stop)
    : blocks_(blocks), protector_(std::move(protector)), stores_(std::move(stores)), unsaved_(blocks), stop_(std::move(stop)) {
    for (const MemoryBlock& block : blocks) {
        protected_.emplace_back((block.spec().pages() + kUnitPages - 1) / kUnitPages);
    }
}

CopyBeforeWrite::~CopyBeforeWrite() { end_service(); }

Result<std::unique_ptr<CopyBeforeWrite>> CopyBeforeWrite::prepare(std::span<const MemoryBlock> blocks, std::uint64_t store_pages,
                                                                  CopyHooks hooks) {
    WriteProtector protector = TRY(WriteProtector::over(blocks));
    const std::uint64_t each = std::max(store_pages / 2, kLeastPages);
    std::array<Staging, 2> stores{TRY(Staging::of(blocks, each)), TRY(Staging::of(blocks, each))};
    for (Staging& store : stores) {
        store.prepare(kLeastPages);
    }
    UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
    if (!stop.valid()) {
        return fail(Error::system("eventfd", "write protection", errno));
    }
    std::unique_ptr<CopyBeforeWrite> self(new CopyBeforeWrite(blocks, std::move(protector), std::move(stores), std::move(stop)));
    self->hooks_ = std::move(hooks);
    TRY(self->start_service());
    return self;
}

// With `mutex_` held.
Result<std::uint64_t> CopyBeforeWrite::protect_units(const DirtySet& pages, const std::function<void()>& between) {
    std::uint64_t done = 0;
    for (std::size_t block = 0; block < pages.blocks(); ++block) {
        std::vector<bool>& is_protected = protected_[block];
        const auto wanted = [&](std::uint64_t unit) {
            return unit < is_protected.size() && !is_protected[unit] && count_of(words_of(pages, block, unit * kUnitPages)) > 0;
        };
        for (std::uint64_t unit = 0; unit < is_protected.size(); ++unit) {
            between();
            if (over_) {
                return fail(service_.error());
            }
            std::uint64_t count = 0;
            for (; count < kMostUnits && wanted(unit + count); ++count) {
                is_protected[unit + count] = true;
            }
            if (count > 0) {
                const std::uint64_t first = unit * kUnitPages;
                TRY(protector_.protect(block, first, std::min(count * kUnitPages, pages.pages(block) - first)));
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
        lock.unlock();  // who waits is let go
        lock.lock();
    });
}

Status CopyBeforeWrite::protect(DirtySet pages) {
    // One critical section. A fault of before the instant may not have been looked at yet, though its vCPU stands: were its unit let go
    // behind this loop, it would be taken for protected, and written by the guest before it is saved.
    const std::lock_guard lock(mutex_);
    TRY(protect_units(pages, [] {}));
    hooks_.protecting();
    unsaved_ = std::move(pages);
    taken_ = true;
    return {};
}

Status CopyBeforeWrite::start_service() {
    service_thread_ = TRY(start_thread("write protection", [this] {
        Status served = serve();
        const std::lock_guard lock(mutex_);
        if (!served) {
            protector_.lift();  // nobody else would let go who waits
            over_ = true;
        }
        service_ = std::move(served);
        changed_.notify_all();
    }));
    return {};
}

bool CopyBeforeWrite::has_room(const Unit& unit) const {
    return count_of(words_of(unsaved_, unit.block, unit.first)) <= stores_[open_].room();
}

// What of a unit is not saved yet goes into the open store; then everybody may write there.
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
    return protector_.release(unit.block, unit.first, std::min(kUnitPages, unsaved_.pages(unit.block) - unit.first));
}

Status CopyBeforeWrite::serve() {
    while (true) {
        const auto fault = TRY(protector_.next_fault(stop_.get()));
        if (!fault) {
            return {};
        }
        const Unit unit{fault->block, fault->page / kUnitPages * kUnitPages};
        hooks_.fault_read();
        std::unique_lock lock(mutex_);
        if (!taken_) {
            TRY(release(unit));  // too early
            continue;
        }
        changed_.wait(lock, [&] { return over_ || has_room(unit); });
        if (over_) {
            return {};  // the end lets everybody go
        }
        TRY(save(unit));
    }
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

Status CopyBeforeWrite::write_stores(Attempt& attempt) {
    while (true) {
        Staging* full = nullptr;
        {
            const std::lock_guard lock(mutex_);
            if (over_) {
                return service_;
            }
            Staging& store = stores_[open_];
            const std::uint64_t enough = store.used() + kLeastPages;
            for (auto unit = next_unit(); unit && has_room(*unit) && store.used() < enough; unit = next_unit()) {
                TRY(save(*unit));
            }
            if (store.used() == 0) {
                return {};  // all is saved, and the other store was written before
            }
            full = &store;
            open_ = 1 - open_;
        }
        changed_.notify_all();
        TRY(attempt.write_staged(*full));
        TRY(attempt.settle_writes());
        const std::lock_guard lock(mutex_);
        full->clear();
    }
}

void CopyBeforeWrite::end_service() {
    if (!service_thread_.joinable()) {
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
    }
    changed_.notify_all();
    (void)::eventfd_write(stop_.get(), 1);
    service_thread_.join();
}

Status CopyBeforeWrite::copy(Attempt& attempt) {
    Status written = write_stores(attempt);
    end_service();
    return written;
}

}  // namespace snapvm
