// SPDX-License-Identifier: Apache-2.0
#include "snapshot/restore/detach.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "snapshot/format/page_entry.h"
#include "snapshot/format/runs.h"
#include "vmm/base/stopwatch.h"
#include "vmm/base/try.h"
#include "vmm/memory/population.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kUnitPages = kHugePageSize / kPageSize;

// Thaws the machine.
void count_freeze(DetachReport& report, FreezeGuard& frozen) {
    const Stopwatch watch(frozen.since());
    report.longest_freeze_us = std::max(report.longest_freeze_us, watch.us_until(frozen.thaw()));
    ++report.freezes;
}

/// Copies one block into memory of the machine's own, in units of 2 MiB.
class Detaching {
public:
    Detaching(SnapshotSource& machine, MemoryBlock& block, const PopulationScanner& scanner, Mapping copy,
              DetachReport& report, SnapshotMonitor& monitor)
        : machine_(machine),
          block_(block),
          scanner_(scanner),
          copy_(std::move(copy)),
          report_(report),
          monitor_(monitor) {}

    Status run() {
        const std::uint64_t pages = block_.spec().pages();
        for (std::uint64_t first = 0; first < pages; first += kUnitPages) {
            TRY(check_cancelled());
            const std::uint64_t count = std::min(kUnitPages, pages - first);
            TRY(detach(first, count));
            monitor_.round_done += count;
        }
        return {};
    }

private:
    [[nodiscard]] Status check_cancelled() const {
        if (monitor_.cancelled()) {
            return fail(ErrorKind::cancelled, "the detach was called off",
                        "the machine runs on and maps its snapshot as before");
        }
        return {};
    }
    Status detach(std::uint64_t first, std::uint64_t count) {
        TRY(block_.origin()->read_entries(block_.spec().id, first, std::span(entries_).first(count)));
        if (without_data(first, count)) {
            for (std::uint64_t i = 0; i < count; ++i) {
                keep_type(first + i, entries_[i].page_class);
            }
            return {};
        }
        TRY(inherit(first, count));
        return take_over(first, count);
    }
    [[nodiscard]] bool without_data(std::uint64_t first, std::uint64_t count) const {
        return block_.emptied(first) || block_.overlaid(first, count);
    }
    std::byte* copy_of(std::uint64_t page) { return copy_.data() + page * kPageSize; }

    // Reads what the guest has not written from the snapshot. Of the other pages it only populates
    // the copy, so that the freeze takes no page faults.
    Status inherit(std::uint64_t first, std::uint64_t count) {
        const auto own = std::span(own_).first(count);
        TRY(scanner_.scan(block_, first, own));
        RunJoiner runs([&](std::uint64_t page, std::uint64_t run) { return read(page, run, first); });
        for (std::uint64_t i = 0; i < count; ++i) {
            if (own[i] == Population::own) {
                *copy_of(first + i) = std::byte{0};
            } else if (has_data(entries_[i].page_class)) {
                TRY(runs.add(first + i));
            } else {
                keep_type(first + i, entries_[i].page_class);
            }
        }
        return runs.flush();
    }

    // Records in the page-type table which pages were given up before the snapshot. After the
    // detach the snapshot's entries are not available any more.
    void keep_type(std::uint64_t page, PageClass page_class) {
        const bool given_up = page_class == PageClass::balloon || page_class == PageClass::free;
        if (given_up && block_.types().get(page) == PageType::normal) {
            block_.set_type(page, page_class == PageClass::balloon ? PageType::balloon : PageType::free);
        }
    }

    Status read(std::uint64_t page, std::uint64_t count, std::uint64_t unit) {
        // Reads from where the page is mapped to. In a damaged snapshot a shared page's own place
        // may differ from the page that it repeats, and the guest's memory would change.
        TRY(block_.read_untouched(page, {copy_of(page), count * kPageSize}));
        for (std::uint64_t i = page; i < page + count; ++i) {
            if (page_checksum(block_.spec().id, i, {copy_of(i), kPageSize}) != entries_[i - unit].checksum) {
                return fail(ErrorKind::invalid, "the snapshot behind this machine is damaged: page " +
                                                    std::to_string(i) + " of block " +
                                                    std::string(name_of(block_.spec().id)) + " has a wrong checksum");
            }
        }
        report_.read_pages += count;
        return {};
    }

    Status take_over(std::uint64_t first, std::uint64_t count) {
        QuiesceGuard quiet = TRY(QuiesceGuard::quiesce(machine_, [this] { return check_cancelled(); }));
        FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
        if (without_data(first, count)) {
            return {};  // the unit was given up meanwhile, so there is nothing to keep
        }
        // Scans again, because the guest has written meanwhile.
        const auto own = std::span(own_).first(count);
        TRY(scanner_.scan(block_, first, own));
        for (std::uint64_t i = 0; i < count; ++i) {
            if (own[i] == Population::own) {
                std::memcpy(copy_of(first + i), block_.page(first + i).data(), kPageSize);
                ++report_.copied_pages;
            }
        }
        TRY(block_.replace(first, count, copy_));
        count_freeze(report_, frozen);
        return {};
    }

    SnapshotSource& machine_;
    MemoryBlock& block_;
    const PopulationScanner& scanner_;
    Mapping copy_;
    DetachReport& report_;
    SnapshotMonitor& monitor_;
    std::array<Population, kUnitPages> own_{};
    std::array<PageOrigin::Entry, kUnitPages> entries_{};
};

}  // namespace

Result<DetachReport> detach_snapshot(SnapshotSource& machine, GuestMemory& memory, SnapshotMonitor* monitor) {
    const Stopwatch watch;
    DetachReport report;
    SnapshotMonitor unwatched;
    SnapshotMonitor& progress = monitor != nullptr ? *monitor : unwatched;
    progress.phase = SnapshotPhase::detaching;
    progress.round = 1;
    for (const MemoryBlock& block : memory.blocks()) {
        progress.round_pages += block.origin() != nullptr ? block.spec().pages() : 0;
    }
    const PopulationScanner scanner = TRY(PopulationScanner::open());
    for (MemoryBlock& block : memory.blocks()) {
        if (block.origin() == nullptr) {
            continue;
        }
        report.mapped = true;
        // One mapping as large as the block, and each unit moves from the same offset in it: the
        // moved pieces merge into one mapping of the kernel's again (max_map_count).
        Detaching detaching(machine, block, scanner, TRY(block.space_for_copy()), report, progress);
        TRY(detaching.run());
    }
    // After all blocks: while any block maps the file, the snapshot stays pinned anyway, and an
    // interrupted detach leaves every block with its origin. No vCPU runs, because one that fails
    // looks at the origin.
    if (report.mapped) {
        FreezeGuard frozen = TRY(FreezeGuard::freeze(machine));
        for (MemoryBlock& block : memory.blocks()) {
            block.let_go_of_origin(machine.config().pages);
        }
        count_freeze(report, frozen);
    }
    report.total_us = watch.us();
    return report;
}

}  // namespace snapvm
