// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/rounds.h"

#include <algorithm>
#include <memory>

#include "snapshot/write/copy_before_write.h"
#include "snapshot/write/staging.h"
#include "snapshot/write/throttle.h"
#include "vmm/base/stopwatch.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Number of pages that the first round arms before it copies them. A small number keeps the time
// short in which a page can be written before it is read.
constexpr std::uint64_t kArmPages = 16384;
// With fewer dirty pages another round does not pay: to collect them takes longer than to copy
// them.
constexpr std::uint64_t kFewPages = 64;
constexpr std::uint64_t kFewUnits = 8;  // the same for protection, in units of 2 MiB
constexpr unsigned kVainPauses = 3;  // pauses that may end in vain: the last round did not fit staging
constexpr std::uint64_t kTellingPages = 256;  // a round of fewer pages does not measure the copy rate
constexpr std::uint32_t kStagingShare = 4;  // staging memory is guest memory divided by this
// Pages copied to memory in a microsecond, until a round has been measured. A slow machine copies
// 2.
constexpr double kGuessedRate = 0.5;

// One snapshot in mode live or precopy.
class LiveSnapshot {
public:
    LiveSnapshot(SnapshotSource& source, DirtyFeed& feed, SnapshotJob& job, const WriteOptions& options,
                 SnapshotReport& report)
        : source_(source), feed_(feed), job_(job), options_(options), live_(options.live), report_(report) {}

    Status run() {
        TRY(prepare());
        // Before begin(), which gives up the area's old snapshot: a failure here leaves it valid.
        subscription_ = TRY(feed_.subscribe());
        TRY(job_.begin());
        set_phase(options_.monitor, SnapshotPhase::copying);
        TRY(first_round());
        for (unsigned pauses = 0;; ++pauses) {
            TRY(later_rounds(job_.changed() ? ~0ULL : job_.data_bytes() / kPageSize));
            QuiesceGuard quiet = TRY(quiesce());
            throttle_.reset();
            if (guard_) {
                return pause_and_protect(std::move(quiet));
            }
            if (TRY(pause_and_copy(std::move(quiet), pauses < kVainPauses && !gave_in_))) {
                return {};
            }
            TRY(empty_staging());
        }
    }

private:
    [[nodiscard]] std::uint64_t budget_pages() const {
        // A larger product cannot be converted to an integer.
        return static_cast<std::uint64_t>(std::min(rate_ * static_cast<double>(live_.max_pause.count()), 1e15));
    }
    [[nodiscard]] bool staged_mode() const { return options_.mode == SnapshotMode::live && staging_.capacity() > 0; }

    Status prepare() {
        std::uint64_t bytes = 0;
        if (options_.mode == SnapshotMode::live) {
            const std::uint64_t all = source_.config().memory_bytes;
            bytes = std::min(live_.staging_bytes.value_or(all / kStagingShare), all);
        }
        staging_ = TRY(Staging::of(source_.memory().blocks(), bytes / kPageSize));
        return {};
    }

    // Streams all pages, or those that changed since the last snapshot, straight to the
    // destination.
    Status first_round() {
        const Stopwatch watch;
        const auto blocks = source_.memory().blocks();
        if (const DirtySet* changed = job_.changed()) {
            // Tracking has been on since the area's last snapshot: every page is armed, and
            // subscribe() has brought `changed` up to date.
            DirtySet pages = *changed;
            const std::uint64_t count = pages.count();
            job_.begin_round(count);
            TRY(stream(pages));
            TRY(job_.drain());
            report_.rounds.push_back({count, job_.data_bytes(), watch.us()});
            return {};
        }
        std::uint64_t all = 0;
        for (const MemoryBlock& block : blocks) {
            all += block.spec().pages();
        }
        job_.begin_round(all);
        const std::optional<DirtySet> unused = TRY(ask_for_free_pages());
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const std::uint64_t pages = blocks[i].spec().pages();
            if (unused) {
                TRY(job_.stream_used(i, 0, pages, *unused));
                continue;
            }
            for (std::uint64_t first = 0; first < pages; first += kArmPages) {
                const std::uint64_t count = std::min(kArmPages, pages - first);
                // Arms before it reads: what the guest writes in between comes again with a later
                // round. A write between the copy and a later arming would be lost.
                TRY(feed_.arm(i, first, count));
                TRY(job_.stream(i, first, count));
            }
        }
        feed_.all_armed();
        // Queued writes read guest memory when the disk gets to them. A page that is clean at the
        // pause must be read before the guest writes to it after the pause. The drain is here,
        // while the guest runs, so that the pause does not wait for the disk.
        TRY(job_.drain());
        report_.rounds.push_back({all, job_.data_bytes(), watch.us()});
        return {};
    }

    // Pages that the guest does not use need no copy. Its answer is only a hint, so every page is
    // armed before the guest is asked: what it writes after its answer comes with a later round.
    Result<std::optional<DirtySet>> ask_for_free_pages() {
        if (!source_.can_tell_free_pages()) {
            return std::nullopt;
        }
        const auto blocks = source_.memory().blocks();
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            TRY(feed_.arm(i, 0, blocks[i].spec().pages()));
        }
        feed_.all_armed();
        DirtySet unused(blocks);
        source_.add_free_pages(unused);
        return unused;
    }

    // Runs rounds until what is left fits the pause, or until it is clear that it never will.
    // `before`: the number of pages of the round before.
    Status later_rounds(std::uint64_t before) {
        unsigned stuck = 0;
        while (true) {
            TRY(job_.check_cancelled());
            TRY(feed_.collect());
            const std::uint64_t pages = subscription_->pages().count();
            const bool last = report_.rounds.size() >= live_.max_rounds;
            const bool shrinks = pages <= before / 2 && !last;
            if (pages <= std::max(kFewPages, live_.threshold_bytes / kPageSize) ||
                (pages <= budget_pages() && !shrinks)) {
                if (has_room(subscription_->pages())) {
                    return {};
                }
                // The staged pages must reach the disk before the pause, which must not wait for
                // that. The guest dirties more pages meanwhile, so this looks again.
                TRY(empty_staging());
                before = ~0ULL;
                continue;
            }
            stuck = pages > before - before / 4 ? stuck + 1 : 0;
            const bool to_memory = staged_mode() && leaves_room(subscription_->pages());
            // A single round that does not shrink may be chance. With protect it is the last one
            // all the same, if it goes to the disk: it costs the guest more than protection does.
            const unsigned patience = !to_memory && live_.when_diverging == WhenDiverging::protect ? 1 : 2;
            if ((stuck >= patience && pages > budget_pages()) || last) {
                if (!TRY(slow_down())) {
                    return {};
                }
                stuck = 0;
            }
            before = pages;
            TRY(one_round(pages));
        }
    }

    Status one_round(std::uint64_t pages) {
        if (staged_mode() && leaves_room(subscription_->pages())) {
            stage_round(pages);
            return {};
        }
        return disk_round(pages);
    }

    // Quiesces the devices while the guest runs. Rounds then copy what was written meanwhile, so
    // that the pause need not. With guard_, protect_ahead() looks at it instead.
    Result<QuiesceGuard> quiesce() {
        const Stopwatch watch;
        set_phase(options_.monitor, SnapshotPhase::quiescing);
        QuiesceGuard quiet = TRY(QuiesceGuard::quiesce(source_, [this] { return job_.check_cancelled(); }));
        const std::uint64_t took = watch.us();
        report_.quiesce_us += took;
        set_phase(options_.monitor, SnapshotPhase::copying);
        if (!guard_ && !gave_in_) {
            TRY(later_rounds(~0ULL));  // ~0: there is no round that this one is compared with
            return quiet;
        }
        TRY(feed_.collect());
        if (gave_in_ && took > static_cast<std::uint64_t>(live_.max_pause.count())) {
            TRY(one_round(subscription_->pages().count()));  // after a short drain another round would gain nothing
        }
        return quiet;
    }

    // Whether staging these pages leaves room for the last round.
    [[nodiscard]] bool leaves_room(const DirtySet& pages) const {
        return staging_.missing(pages) + reserve() <= staging_.room();
    }
    // Whether the last round can be staged. An empty store counts, because no other has more room.
    [[nodiscard]] bool has_room(const DirtySet& pages) const {
        return !staged_mode() || staging_.used() == 0 || leaves_room(pages);
    }
    [[nodiscard]] std::uint64_t reserve() const {
        return std::min(staging_.capacity() / 4, 4 * std::max(budget_pages(), kFewPages));
    }

    void stage_round(std::uint64_t pages) {
        const Stopwatch watch;
        job_.begin_round(pages);
        stage(subscription_->pages());
        measure(pages, watch);
        report_.rounds.push_back({pages, 0, watch.us()});
    }

    void measure(std::uint64_t pages, const Stopwatch& watch) {
        if (pages < kTellingPages) {
            return;
        }
        rate_ = static_cast<double>(pages) / static_cast<double>(std::max<std::uint64_t>(watch.us(), 1));
    }

    void stage(DirtySet& pages) {
        const auto blocks = source_.memory().blocks();
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            (void)for_each_run(pages.words(i), pages.pages(i), [&](std::uint64_t first, std::uint64_t count) {
                for (std::uint64_t page = first; page < first + count; ++page) {
                    staging_.put(i, page, blocks[i]);
                }
                if (options_.monitor != nullptr) {
                    options_.monitor->round_done += count;
                }
                return Status{};
            });
        }
        pages.clear();
        show_staged();
    }

    void show_staged() {
        if (options_.monitor != nullptr) {
            options_.monitor->staged_bytes = staging_.used() * kPageSize;
        }
    }

    // Streams straight to the disk, after the writes of the round before: two writes of one page
    // have no order. Staged copies of these pages are older, so they are written first.
    Status disk_round(std::uint64_t pages) {
        const Stopwatch watch;
        job_.begin_round(pages);
        const std::uint64_t bytes = job_.data_bytes();
        TRY(empty_staging());
        TRY(stream(subscription_->pages()));
        TRY(job_.drain());  // for the same reason as in first_round()
        if (!staged_mode()) {
            measure(pages, watch);
        }
        report_.rounds.push_back({pages, job_.data_bytes() - bytes, watch.us()});
        return {};
    }

    Status empty_staging() {
        if (staging_.used() > 0) {
            TRY(job_.write_staged(staging_));
            TRY(job_.drain());
            staging_.clear();
            show_staged();
        }
        return {};
    }

    Status stream(DirtySet& pages) {
        for (std::size_t i = 0; i < pages.blocks(); ++i) {
            TRY(for_each_run(pages.words(i), pages.pages(i),
                             [&](std::uint64_t first, std::uint64_t count) { return job_.stream(i, first, count); }));
        }
        pages.clear();
        return {};
    }

    // Does what when_diverging says, because the guest writes faster than rounds copy. Returns
    // whether another round makes sense.
    Result<bool> slow_down() {
        report_.diverged = true;
        WhenDiverging wish = live_.when_diverging;
        if (wish == WhenDiverging::cancel) {
            return fail(ErrorKind::cancelled, "the guest writes memory faster than it can be copied",
                        "raise --max-pause or --staging, or choose another --when-diverging");
        }
        // keep_frozen stops the guest anyway; precopy exists to be compared with protection.
        if (wish == WhenDiverging::protect && (options_.keep_frozen || options_.mode == SnapshotMode::precopy)) {
            wish = WhenDiverging::stop;
        }
        if (wish == WhenDiverging::protect) {
            auto guard = CopyBeforeWrite::prepare(source_.memory(), staging_.capacity());
            if (guard) {
                guard_ = *std::move(guard);
                TRY(empty_staging());
                staging_ = {};  // frees the memory for the stores of guard_
                report_.when_diverging = name_of(WhenDiverging::protect);
                return false;
            }
            report_.protect_refused = guard.error().message();
            wish = WhenDiverging::throttle;
        }
        if (wish == WhenDiverging::throttle) {
            report_.when_diverging = name_of(WhenDiverging::throttle);
            if (!throttle_) {
                throttle_ = TRY(Throttle::start(source_));
                return true;
            }
            if (throttle_->tighten()) {
                return true;
            }
        }
        report_.when_diverging = name_of(WhenDiverging::stop);
        gave_in_ = true;
        if (!has_room(subscription_->pages())) {
            TRY(empty_staging());  // so that the pause need not
        }
        return false;
    }

    // Copies nothing in the pause: protects what is left, and copies each page before its first
    // write.
    Status pause_and_protect(QuiesceGuard quiet) {
        // The record starts here, before the instant: the next snapshot writes a few pages more
        // than it had to.
        TRY(job_.follow(feed_));
        TRY(protect_ahead());
        FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
        const Stopwatch pause(frozen.since());
        set_phase(options_.monitor, SnapshotPhase::paused);
        TRY(job_.take_state());
        // After take_state(): reading the vCPUs' state may make KVM write to guest memory. peek()
        // is enough: no copy follows that a later write could overtake, and arming all these pages
        // anew takes longer than protecting them.
        DirtySet rest = subscription_->pages();
        TRY(feed_.peek(rest));
        const std::uint64_t pages = rest.count();
        TRY(guard_->protect(std::move(rest)));
        source_.give_back();
        report_.pause_us += pause.us_until(frozen.thaw());
        job_.begin_round(pages);
        set_phase(options_.monitor, SnapshotPhase::draining);
        report_.tracker = feed_.tracker_name();
        const std::uint64_t bytes = job_.data_bytes();
        TRY(guard_->copy(job_));
        report_.staging_peak_bytes = guard_->peak_pages() * kPageSize;
        guard_.reset();
        // Not earlier: to switch tracking off, KVM waits until every vCPU has left its page fault.
        // A vCPU that waits there for room in a store waits for this thread.
        subscription_.reset();
        report_.rounds.push_back({pages, job_.data_bytes() - bytes, pause.us()});
        return job_.finish();
    }

    // Protects in rounds: while one protects the rest, the guest's writes remove protection that
    // the next one restores.
    Status protect_ahead() {
        std::uint64_t before = ~0ULL;
        while (true) {
            TRY(job_.check_cancelled());
            const std::uint64_t units = TRY(guard_->protect_ahead(subscription_->pages()));
            if (units <= kFewUnits || units > before / 2) {
                return {};
            }
            before = units;
        }
    }

    // Copies what is left in the pause and completes the snapshot. Returns false, with the guest
    // running again, if the guest has written more since the last look than fits staging; the
    // caller then empties it. Unless `may_be_in_vain`, streams to the disk in the pause instead.
    Result<bool> pause_and_copy(QuiesceGuard quiet, bool may_be_in_vain) {
        if (staged_mode()) {
            staging_.prepare(2 * std::max(subscription_->pages().count(), kFewPages));
        } else {
            TRY(empty_staging());
        }
        FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
        const Stopwatch pause(frozen.since());
        set_phase(options_.monitor, SnapshotPhase::paused);
        TRY(job_.take_state());
        // After take_state(): reading the vCPUs' state may make KVM write to guest memory.
        TRY(feed_.collect());
        DirtySet& rest = subscription_->pages();
        const bool fits = staged_mode() && staging_.missing(rest) <= staging_.room();
        if (staged_mode() && !fits && may_be_in_vain) {
            report_.pause_us += pause.us_until(frozen.thaw());
            set_phase(options_.monitor, SnapshotPhase::copying);
            return false;
        }
        const std::uint64_t pages = rest.count();
        const std::uint64_t bytes = job_.data_bytes();
        job_.begin_round(pages);
        if (fits) {
            stage(rest);
        } else {
            TRY(empty_staging());
            TRY(stream(rest));
            TRY(job_.drain());
        }
        TRY(job_.follow(feed_));
        report_.rounds.push_back({pages, job_.data_bytes() - bytes, pause.us()});
        source_.give_back();  // the state is saved, and the guest need not wait for the disk
        report_.pause_us += options_.keep_frozen ? pause.us() : pause.us_until(frozen.thaw());
        set_phase(options_.monitor, SnapshotPhase::draining);
        report_.staging_peak_bytes = staging_.peak() * kPageSize;
        report_.tracker = feed_.tracker_name();
        // Ends the tracking, so that the guest writes at full speed while the rest goes to the
        // disk.
        subscription_.reset();
        if (options_.monitor != nullptr) {
            options_.monitor->round_pages = staging_.used();
            options_.monitor->round_done = 0;
        }
        TRY(empty_staging());
        TRY(job_.finish());
        if (options_.keep_frozen) {
            frozen.release();
        }
        return true;
    }

    SnapshotSource& source_;
    DirtyFeed& feed_;
    SnapshotJob& job_;
    const WriteOptions& options_;
    const LiveOptions& live_;
    SnapshotReport& report_;
    Staging staging_;  // outlives the writes queued from it: every way out drains first
    std::unique_ptr<DirtyFeed::Subscription> subscription_;
    std::unique_ptr<CopyBeforeWrite> guard_;  ///< set if the pause protects what is left
    std::unique_ptr<Throttle> throttle_;
    bool gave_in_ = false;  ///< the guest stands still until the rest is on the disk
    double rate_ = kGuessedRate;  ///< pages a microsecond into staging
};

}  // namespace

Status write_live(SnapshotSource& source, SnapshotJob& job, const WriteOptions& options, SnapshotReport& report) {
    DirtyFeed* feed = source.dirty();
    if (feed == nullptr) {
        return fail(ErrorKind::unsupported, "this host's KVM cannot tell which pages a guest writes",
                    "use --mode stop");
    }
    LiveSnapshot snapshot(source, *feed, job, options, report);
    Status done = snapshot.run();
    if (!done) {
        // Queued writes read the staging memory, which `snapshot` owns.
        (void)job.drain();
    }
    return done;
}

}  // namespace snapvm
