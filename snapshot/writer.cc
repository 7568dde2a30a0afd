// SPDX-License-Identifier: Apache-2.0
#include "snapshot/writer.h"

#include "snapshot/attempt.h"
#include "snapshot/live.h"
#include "snapshot/stopwatch.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// The guest stands for all of it.
Status write_stopped(SnapshotSource& source, Attempt& attempt, const WriteOptions& options, SnapshotReport& report) {
    // Where there is no older snapshot to lose, this flush need not lengthen the pause.
    if (attempt.fresh()) {
        TRY(attempt.begin());
    }
    const Stopwatch pause;
    FreezeGuard frozen = TRY(FreezeGuard::freeze(source));
    set_phase(options.monitor, SnapshotPhase::paused);
    const Attempt::State state = TRY(attempt.take_state());
    if (!attempt.begun()) {
        TRY(attempt.begin());
    }
    std::uint64_t pages = 0;
    const auto blocks = source.memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        TRY(attempt.stream(i, 0, blocks[i].spec().pages()));
        pages += blocks[i].spec().pages();
    }
    TRY(attempt.settle_writes());
    report.rounds.push_back({pages, attempt.data_bytes(), pause.us()});
    TRY(attempt.finish(state));
    if (options.keep_frozen) {
        frozen.release();
    } else {
        frozen.thaw();
    }
    report.pause_us = pause.us();
    return {};
}

Result<SnapshotReport> write(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    const Stopwatch all;
    Attempt attempt = TRY(Attempt::open(source, path, options));
    SnapshotReport report;
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
