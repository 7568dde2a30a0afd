// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/job.h"

#include <algorithm>

#include "snapshot/format/runs.h"
#include "snapshot/format/sections.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 4096;
constexpr std::uint64_t kMaxRunPages = kMaxRunBytes / kPageSize;

}  // namespace

SnapshotJob::SnapshotJob(SnapshotSource& source, Destination& destination, const WriteOptions& options,
                         Classifier classifier)
    : source_(&source), destination_(&destination), options_(options), classifier_(std::move(classifier)) {}

Result<SnapshotJob> SnapshotJob::open(SnapshotSource& source, Destination& destination, const WriteOptions& options) {
    const std::optional<Uuid> previous = destination.previous();
    const bool known = options.history != nullptr && previous && options.history->knows(*previous);
    if (options.type == SnapshotType::diff && !known) {
        return fail(
            ErrorKind::usage, std::string(destination.name()) + ": what changed since the snapshot in it is not known",
            "make one with --type auto and --track; the next one by this machine into this area can then be a diff");
    }
    SnapshotJob job(source, destination, options, Classifier(TRY(PopulationScanner::open())));
    job.diff_ = known && options.type != SnapshotType::full;
    job.table_ = TRY(PageTable::of(source.memory().blocks()));
    job.snapshot_id_ = TRY(Uuid::random());
    return job;
}

Status SnapshotJob::check_cancelled() const {
    if (options_.monitor != nullptr && options_.monitor->cancelled()) {
        return fail(ErrorKind::cancelled, "the snapshot was called off");
    }
    return {};
}

Status SnapshotJob::begin() {
    const std::optional<Uuid> previous = destination_->previous();
    if (previous && options_.history != nullptr && options_.history->knows(*previous)) {
        SnapshotHistory::Known known = options_.history->take(*previous);
        if (diff_) {
            table_ = std::move(known.table);
            base_ = std::move(known.missed);
        }
    }
    TRY(destination_->begin(source_->config().machine_id, snapshot_id_));
    begun_ = true;
    return {};
}

Status SnapshotJob::follow(DirtyFeed& feed) {
    if (options_.track && options_.history != nullptr) {
        // join() does not collect. A collect would lengthen the pause, and the pages that it adds
        // to the other subscriptions would come after the last copy.
        followed_ = feed.active() ? feed.join() : TRY(feed.subscribe());
    }
    base_.reset();
    return {};
}

void SnapshotJob::begin_round(std::uint64_t pages) {
    ++round_;
    if (options_.monitor != nullptr) {
        options_.monitor->round = round_;
        options_.monitor->round_pages = pages;
        options_.monitor->round_done = 0;
    }
}

void SnapshotJob::count_done(std::uint64_t pages) {
    if (options_.monitor != nullptr) {
        options_.monitor->round_done += pages;
        options_.monitor->written_bytes = data_bytes_;
    }
}

Status SnapshotJob::put(std::size_t block, std::uint64_t first, std::span<const std::byte> bytes,
                        std::span<const PageFacts> facts) {
    data_bytes_ += bytes.size();
    return destination_->put({block, first, round_, bytes, facts});
}

Status SnapshotJob::stream(std::size_t index, std::uint64_t first, std::uint64_t count) {
    const MemoryBlock& block = source_->memory().blocks()[index];
    for (const std::uint64_t end = first + count; first < end;) {
        const std::uint64_t part = std::min(kChunkPages, end - first);
        facts_.resize(part);
        TRY(check_cancelled());
        TRY(classifier_.classify(block, first, facts_));
        RunJoiner data(
            [&](std::uint64_t from, std::uint64_t pages) {
                return put(index, from, {block.host() + from * kPageSize, pages * kPageSize},
                           std::span(facts_).subspan(from - first, pages));
            },
            kMaxRunPages);
        for (std::uint64_t i = 0; i < part; ++i) {
            table_.set(index, first + i, facts_[i]);
            if (has_data(facts_[i].entry.page_class)) {
                TRY(data.add(first + i));
            }
        }
        TRY(data.flush());
        first += part;
        count_done(part);
    }
    return {};
}

Status SnapshotJob::stream_used(std::size_t index, std::uint64_t first, std::uint64_t count, const DirtySet& unused) {
    for (const std::uint64_t end = first + count; first < end;) {
        const bool skip = unused.has(index, first);
        std::uint64_t run = 1;
        while (first + run < end && unused.has(index, first + run) == skip) {
            ++run;
        }
        if (!skip) {
            TRY(stream(index, first, run));
        } else {
            for (std::uint64_t page = first; page < first + run; ++page) {
                table_.set(index, page, {{PageClass::free}, {}});
            }
            count_done(run);
        }
        first += run;
    }
    return {};
}

Status SnapshotJob::write_staged(const Staging& staging) {
    // Pages that were staged one after the other are adjacent in the store, so most runs of guest
    // pages are runs of the store too.
    const auto blocks = source_->memory().blocks();
    std::span<const std::byte> run;
    std::size_t run_block = 0;
    std::uint64_t run_first = 0;
    facts_.clear();
    const auto flush = [&]() -> Status {
        const Status done = run.empty() ? Status{} : put(run_block, run_first, std::exchange(run, {}), facts_);
        facts_.clear();
        return done;
    };
    TRY(staging.for_each(
        [&](std::size_t index, std::uint64_t page, std::span<const std::byte> bytes, PageType type) -> Status {
            const PageFacts facts = classify_page(blocks[index].spec().id, page, bytes, type);
            table_.set(index, page, facts);
            count_done(1);
            if (!has_data(facts.entry.page_class)) {
                return {};
            }
            const bool joins = !run.empty() && run.data() + run.size() == bytes.data() && run_block == index &&
                               run_first + facts_.size() == page;
            if (!joins || facts_.size() == kMaxRunPages) {
                TRY(check_cancelled());
                TRY(flush());
                run_block = index;
                run_first = page;
                run = bytes;
            } else {
                run = {run.data(), run.size() + bytes.size()};
            }
            facts_.push_back(facts);
            return {};
        }));
    return flush();
}

Status SnapshotJob::take_state() {
    const SavedMachine saved = TRY(source_->save());
    return destination_->put_state(
        {StartSection{saved.config, saved.config.blocks()}.encode(), encode_state(saved.records)});
}

Status SnapshotJob::finish() {
    // Before commit(), which zeroes the places of pages that have lost their data. A write of such
    // a page may be in flight, and two writes of one page have no order.
    TRY(drain());
    const PageTable::Resolved pages = TRY(table_.resolve());
    counts_ = pages.counts;
    TRY(destination_->commit(pages, options_.metadata, [this] { return check_cancelled(); }));
    if (followed_) {
        options_.history->remember({snapshot_id_, std::move(table_), std::move(followed_)});
    } else if (options_.history != nullptr) {
        options_.history->clear();
    }
    return {};
}

void SnapshotJob::fill(SnapshotReport& report) const {
    destination_->fill(report);
    report.pages = counts_;
    report.snapshot_id = snapshot_id_;
    report.type = diff_ ? "diff" : "full";
}

}  // namespace snapvm
