// SPDX-License-Identifier: Apache-2.0
#include "snapshot/writer.h"

#include "snapshot/attempt.h"
#include "snapshot/live.h"
#include "snapshot/stopwatch.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// All pages, or those that changed; how many.
Result<std::uint64_t> stream_pages(SnapshotSource& source, Attempt& attempt) {
    std::uint64_t pages = 0;
    const DirtySet* changed = attempt.changed();
    if (changed != nullptr) {
        TRY(source.dirty()->collect());
    }
    const auto blocks = source.memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (changed == nullptr) {
            TRY(attempt.stream(i, 0, blocks[i].spec().pages()));
            pages += blocks[i].spec().pages();
            continue;
        }
        TRY(for_each_run(changed->words(i), changed->pages(i), [&](std::uint64_t first, std::uint64_t count) {
            pages += count;
            return attempt.stream(i, first, count);
        }));
    }
    return pages;
}

Status track_from_here(SnapshotSource& source, Attempt& attempt) {
    DirtyFeed* feed = source.dirty();  // there is one, or the attempt would not have been opened
    TRY(attempt.follow(*feed));
    const auto blocks = source.memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        TRY(feed->arm(i, 0, blocks[i].spec().pages()));
    }
    feed->all_armed();
    return {};
}

// The guest stands for all of it.
Status write_stopped(SnapshotSource& source, Attempt& attempt, const WriteOptions& options, SnapshotReport& report) {
    // Where there is no older snapshot to lose, this flush need not lengthen the pause.
    if (attempt.fresh()) {
        TRY(attempt.begin());
    }
    set_phase(options.monitor, SnapshotPhase::quiescing);
    const Stopwatch drain;
    QuiesceGuard quiet = TRY(QuiesceGuard::quiesce(source, [&] { return attempt.check_cancelled(); }));
    report.quiesce_us = drain.us();
    FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
    const Stopwatch pause(frozen.since());
    set_phase(options.monitor, SnapshotPhase::paused);
    const Attempt::State state = TRY(attempt.take_state());
    if (!attempt.begun()) {
        TRY(attempt.begin());
    }
    const std::uint64_t pages = TRY(stream_pages(source, attempt));
    TRY(attempt.settle_writes());
    if (options.track) {
        TRY(track_from_here(source, attempt));
    }
    report.rounds.push_back({pages, attempt.data_bytes(), pause.us()});
    TRY(attempt.finish(state));
    if (options.keep_frozen) {
        frozen.release();
        report.pause_us = pause.us();
    } else {
        source.give_back();
        report.pause_us = pause.us_until(frozen.thaw());
    }
    return {};
}

Status release_free(SnapshotSource& source, const Attempt& attempt, const WriteOptions& options, SnapshotReport& report) {
    set_phase(options.monitor, SnapshotPhase::releasing);
    const Stopwatch watch;
    report.released_bytes = TRY(source.release_free(*options.release_free, [&] { return attempt.check_cancelled(); }));
    report.release_us = watch.us();
    return {};
}

Result<SnapshotReport> write(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    const Stopwatch all;
    Attempt attempt = TRY(Attempt::open(source, path, options));
    SnapshotReport report;
    const ReleaseGuard given_back(source);
    if (options.release_free) {
        TRY(release_free(source, attempt, options, report));
    }
    if (options.mode == SnapshotMode::stop) {
        TRY(write_stopped(source, attempt, options, report));
    } else {
        TRY(write_live(source, attempt, options, report));
    }
    report.total_us = all.us();
    attempt.fill(report);
    return report;
}

}  // namespace

Result<SnapshotReport> write_snapshot(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    auto result = write(source, path, options);
    set_phase(options.monitor, SnapshotPhase::done);
    return result;
}

}  // namespace snapvm
