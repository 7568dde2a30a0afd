// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/write_snapshot.h"

#include <algorithm>

#include "snapshot/format/layout.h"
#include "snapshot/format/sections.h"
#include "snapshot/write/area_destination.h"
#include "snapshot/write/job.h"
#include "snapshot/write/rounds.h"
#include "vmm/base/stopwatch.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Puts all pages, or those that changed. Returns their number.
Result<std::uint64_t> stream_pages(SnapshotSource& source, SnapshotJob& job) {
    const auto blocks = source.memory().blocks();
    const DirtySet* changed = job.changed();
    std::uint64_t pages = 0;
    if (changed == nullptr) {
        for (const MemoryBlock& block : blocks) {
            pages += block.spec().pages();
        }
    } else {
        TRY(source.dirty()->collect());
        pages = changed->count();
    }
    job.begin_round(pages);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (changed == nullptr) {
            TRY(job.stream(i, 0, blocks[i].spec().pages()));
            continue;
        }
        TRY(for_each_run(changed->words(i), changed->pages(i),
                         [&](std::uint64_t first, std::uint64_t count) { return job.stream(i, first, count); }));
    }
    return pages;
}

Status track_from_here(SnapshotSource& source, SnapshotJob& job) {
    DirtyFeed* feed = source.dirty();  // not null, or check_request() would have failed
    TRY(job.follow(*feed));
    const auto blocks = source.memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        TRY(feed->arm(i, 0, blocks[i].spec().pages()));
    }
    feed->all_armed();
    return {};
}

// Mode stop: the guest stands still for the whole snapshot.
Status write_stopped(SnapshotSource& source, SnapshotJob& job, const WriteOptions& options, SnapshotReport& report) {
    // With no older snapshot to lose, this flush need not be part of the pause.
    if (job.destination().is_empty()) {
        TRY(job.begin());
    }
    set_phase(options.monitor, SnapshotPhase::quiescing);
    const Stopwatch drain;
    QuiesceGuard quiet = TRY(QuiesceGuard::quiesce(source, [&] { return job.check_cancelled(); }));
    report.quiesce_us = drain.us();
    FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
    const Stopwatch pause(frozen.since());
    set_phase(options.monitor, SnapshotPhase::paused);
    TRY(job.take_state());
    if (!job.begun()) {
        TRY(job.begin());
    }
    const std::uint64_t pages = TRY(stream_pages(source, job));
    TRY(job.drain());
    if (options.track) {
        TRY(track_from_here(source, job));
    }
    report.rounds.push_back({pages, job.data_bytes(), pause.us()});
    TRY(job.finish());
    if (options.keep_frozen) {
        frozen.release();
        report.pause_us = pause.us();
    } else {
        source.give_back();
        report.pause_us = pause.us_until(frozen.thaw());
    }
    return {};
}

Status release_free(SnapshotSource& source, const SnapshotJob& job, const WriteOptions& options,
                    SnapshotReport& report) {
    set_phase(options.monitor, SnapshotPhase::releasing);
    const Stopwatch watch;
    report.released_bytes = TRY(source.release_free(*options.release_free, [&] { return job.check_cancelled(); }));
    report.release_us = watch.us();
    return {};
}

// Refuses what no destination can store.
Status check_request(SnapshotSource& source, const WriteOptions& options) {
    if (options.metadata.size() > kMetadataCapacity) {
        return fail(ErrorKind::usage, "metadata of " + std::to_string(options.metadata.size()) + " bytes is too large",
                    "give at most 64 KiB");
    }
    if (options.track && source.dirty() == nullptr) {
        return fail(ErrorKind::unsupported, "this host's KVM cannot tell which pages a guest writes",
                    "leave --track out");
    }
    if (!std::ranges::equal(source.memory().blocks(), source.config().blocks(), {}, &MemoryBlock::spec)) {
        return fail(ErrorKind::invalid, "the machine's memory blocks are not those of its configuration");
    }
    return {};
}

Result<SnapshotReport> write(SnapshotSource& source, Destination& destination, const WriteOptions& options,
                             const Stopwatch& all) {
    SnapshotJob job = TRY(SnapshotJob::open(source, destination, options));
    SnapshotReport report;
    const ReleaseGuard given_back(source);
    if (options.release_free) {
        TRY(release_free(source, job, options, report));
    }
    if (options.mode == SnapshotMode::stop) {
        TRY(write_stopped(source, job, options, report));
    } else {
        TRY(write_live(source, job, options, report));
    }
    report.total_us = all.us();
    job.fill(report);
    return report;
}

Result<SnapshotReport> write_area(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    const Stopwatch all;
    TRY(check_request(source, options));  // before AreaDestination::open() creates a file
    AreaDestination area = TRY(AreaDestination::open(source, path, options));
    return write(source, area, options, all);
}

Result<SnapshotReport> write_destination(SnapshotSource& source, Destination& destination,
                                         const WriteOptions& options) {
    const Stopwatch all;
    TRY(check_request(source, options));
    return write(source, destination, options, all);
}

}  // namespace

Result<SnapshotReport> write_snapshot(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    auto result = write_area(source, path, options);
    set_phase(options.monitor, SnapshotPhase::done);
    return result;
}

Result<SnapshotReport> write_snapshot(SnapshotSource& source, Destination& destination, const WriteOptions& options) {
    auto result = write_destination(source, destination, options);
    set_phase(options.monitor, SnapshotPhase::done);
    return result;
}

}  // namespace snapvm
