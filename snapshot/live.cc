// SPDX-License-Identifier: Apache-2.0
#include "snapshot/live.h"

#include <algorithm>
#include <memory>

#include "snapshot/copy_before_write.h"
#include "snapshot/staging.h"
#include "snapshot/stopwatch.h"
#include "snapshot/throttle.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Armed and copied together in the first round: so short is the time in which a page is written before it is read.
constexpr std::uint64_t kArmPages = 16384;
// As few as this are not worth another round: to ask for them takes longer than to copy them.
constexpr std::uint64_t kFewPages = 64;
constexpr std::uint64_t kFewUnits = 8;  // the same for protecting, of 2 MiB
constexpr unsigned kVainPauses = 3;
constexpr std::uint64_t kTellingPages = 256;  // so many say how fast copies are; with fewer it is chance
constexpr std::uint32_t kStagingShare = 4;
// Copies to memory a microsecond, until a round has been measured. A slow machine makes two.
constexpr double kGuessedRate = 0.5;

class LiveSnapshot {
public:
    LiveSnapshot(SnapshotSource& source, DirtyFeed& feed, Attempt& attempt, const WriteOptions& options, SnapshotReport& report)
        : source_(source), feed_(feed), attempt_(attempt), options_(options), live_(options.live), report_(report) {}

    Status run() {
        TRY(prepare());
        // Before the area says `writing`: what can fail yet costs no snapshot.
        subscription_ = TRY(feed_.subscribe());
        TRY(attempt_.begin());
        set_phase(options_.monitor, SnapshotPhase::copying);
        TRY(first_round());
        for (unsigned pauses = 0;; ++pauses) {
            TRY(later_rounds(attempt_.changed() ? ~0ULL : attempt_.data_bytes() / kPageSize));
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
        // A product beyond any number of pages has no integer.
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

    void begin_round(std::uint64_t pages) {
        if (options_.monitor != nullptr) {
            options_.monitor->round = static_cast<std::uint32_t>(report_.rounds.size() + 1);
            options_.monitor->round_pages = pages;
            options_.monitor->round_done = 0;
        }
    }

    // Everything, or what changed since the last snapshot, straight to the disk.
    Status first_round() {
        const Stopwatch watch;
        const auto blocks = source_.memory().blocks();
        if (const DirtySet* changed = attempt_.changed()) {
            // Tracked since the area's last snapshot: every page is armed, and up to date since the subscription.
            DirtySet pages = *changed;
            const std::uint64_t count = pages.count();
            begin_round(count);
            TRY(stream(pages));
            TRY(attempt_.settle_writes());
            report_.rounds.push_back({count, attempt_.data_bytes(), watch.us()});
            return {};
        }
        std::uint64_t all = 0;
        for (const MemoryBlock& block : blocks) {
            all += block.spec().pages();
        }
        begin_round(all);
        const std::optional<DirtySet> unused = TRY(ask_for_free_pages());
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const std::uint64_t pages = blocks[i].spec().pages();
            if (unused) {
                TRY(attempt_.stream_used(i, 0, pages, *unused));
                continue;
            }
            for (std::uint64_t first = 0; first < pages; first += kArmPages) {
                const std::uint64_t count = std::min(kArmPages, pages - first);
                // First armed, then read: what the guest writes in between comes again (traps.md: a bit cleared after the copy).
                TRY(feed_.arm(i, first, count));
                TRY(attempt_.stream(i, first, count));
            }
        }
        feed_.all_armed();
        // What is queued is read from guest memory when the disk comes to it. A page that is clean by then must not be written by the
        // guest after the pause before it has been read; and the pause is not to wait for the disk.
        TRY(attempt_.settle_writes());
        report_.rounds.push_back({all, attempt_.data_bytes(), watch.us()});
        return {};
    }

    // Of pages that the guest has no use for a copy can be left out: a hint, no more (traps.md), so every page is armed before the guest is
    // asked. What it writes behind its answer then comes with a later round, whatever it said.
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

    // Until what is left fits the pause, or until it is plain that it never will. `before`: pages of the round before.
    Status later_rounds(std::uint64_t before) {
        unsigned stuck = 0;
        while (true) {
            TRY(attempt_.check_cancelled());
            TRY(feed_.collect());
            const std::uint64_t pages = subscription_->pages().count();
            const bool last = report_.rounds.size() >= live_.max_rounds;
            const bool shrinks = pages <= before / 2 && !last;
            if (pages <= std::max(kFewPages, live_.threshold_bytes / kPageSize) || (pages <= budget_pages() && !shrinks)) {
                if (has_room(subscription_->pages())) {
                    return {};
                }
                // The pause must not wait until what was staged before is on the disk. That takes a while: look again.
                TRY(empty_staging());
                before = ~0ULL;
                continue;
            }
            stuck = pages > before - before / 4 ? stuck + 1 : 0;
            const bool to_memory = staged_mode() && leaves_room(subscription_->pages());
            // One may have had bad luck; but another round onto the disk costs the guest more than protection does.
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

    // The guest's devices end what they have begun, while it runs, however long a disk takes. What is written meanwhile is for rounds, too,
    // and not for the pause; what is to be protected is looked at again by protect_ahead.
    Result<QuiesceGuard> quiesce() {
        const Stopwatch watch;
        set_phase(options_.monitor, SnapshotPhase::quiescing);
        QuiesceGuard quiet = TRY(QuiesceGuard::quiesce(source_, [this] { return attempt_.check_cancelled(); }));
        const std::uint64_t took = watch.us();
        report_.quiesce_us += took;
        set_phase(options_.monitor, SnapshotPhase::copying);
        if (!guard_ && !gave_in_) {
            TRY(later_rounds(~0ULL));  // however much it is: no round has been in vain
            return quiet;
        }
        TRY(feed_.collect());
        if (gave_in_ && took > static_cast<std::uint64_t>(live_.max_pause.count())) {
            TRY(one_round(subscription_->pages().count()));  // not another in vain, where the devices were at rest
        }
        return quiet;
    }

    // The last round must find room, too.
    [[nodiscard]] bool leaves_room(const DirtySet& pages) const { return staging_.missing(pages) + reserve() <= staging_.room(); }
    // For the last round: in the store as it is, or in an empty one at best.
    [[nodiscard]] bool has_room(const DirtySet& pages) const {
        return !staged_mode() || staging_.used() == 0 || leaves_room(pages);
    }
    [[nodiscard]] std::uint64_t reserve() const {
        return std::min(staging_.capacity() / 4, 4 * std::max(budget_pages(), kFewPages));
    }

    void stage_round(std::uint64_t pages) {
        const Stopwatch watch;
        begin_round(pages);
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
        if (options_.monitor != nullptr) {
            options_.monitor->staged_bytes = staging_.used() * kPageSize;
        }
    }

    // Straight to the disk, where what the round before wrote has arrived (two writes of one page have no order: traps.md). What was staged of these pages is older, and must not come after them.
    Status disk_round(std::uint64_t pages) {
        const Stopwatch watch;
        begin_round(pages);
        const std::uint64_t bytes = attempt_.data_bytes();
        TRY(empty_staging());
        TRY(stream(subscription_->pages()));
        TRY(attempt_.settle_writes());  // as in the first round
        if (!staged_mode()) {
            measure(pages, watch);
        }
        report_.rounds.push_back({pages, attempt_.data_bytes() - bytes, watch.us()});
        return {};
    }

    Status empty_staging() {
        if (staging_.used() > 0) {
            TRY(attempt_.write_staged(staging_));
            TRY(attempt_.settle_writes());
            staging_.clear();
        }
        return {};
    }

    Status stream(DirtySet& pages) {
        for (std::size_t i = 0; i < pages.blocks(); ++i) {
            TRY(for_each_run(pages.words(i), pages.pages(i),
                             [&](std::uint64_t first, std::uint64_t count) { return attempt_.stream(i, first, count); }));
        }
        pages.clear();
        return {};
    }

    // The guest writes faster than is copied: whether more rounds make sense after what is done about it.
    Result<bool> slow_down() {
        report_.diverged = true;
        WhenDiverging wish = live_.when_diverging;
        if (wish == WhenDiverging::cancel) {
            return fail(ErrorKind::cancelled, "the guest writes memory faster than it can be copied",
                        "raise --max-pause or --staging, or choose another --when-diverging");
        }
        // Where it is to stand afterwards anyway; and precopy is what it is to be compared with.
        if (wish == WhenDiverging::protect && (options_.keep_frozen || options_.mode == SnapshotMode::precopy)) {
            wish = WhenDiverging::stop;
        }
        if (wish == WhenDiverging::protect) {
            auto guard = CopyBeforeWrite::prepare(source_.memory().blocks(), staging_.capacity());
            if (guard) {
                guard_ = *std::move(guard);
                TRY(empty_staging());
                staging_ = {};  // its room is for what will be saved
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
            TRY(empty_staging());  // rather than in the pause
        }
        return false;
    }

    // Nothing is copied in this pause: what is left is protected, and each page copied before its first write.
    Status pause_and_protect(QuiesceGuard quiet) {
        // All that is written from here on, some of it before the instant: the next snapshot writes a few pages more than it had to.
        TRY(attempt_.follow(feed_));
        TRY(protect_ahead());
        FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
        const Stopwatch pause(frozen.since());
        set_phase(options_.monitor, SnapshotPhase::paused);
        const Attempt::State state = TRY(attempt_.take_state());
        // After the state: reading it may be what makes KVM write to guest memory last. A look is enough: what follows is no copy that a
        // later write could overtake, and to arm so many pages anew takes longer than to protect them.
        DirtySet rest = subscription_->pages();
        TRY(feed_.peek(rest));
        const std::uint64_t pages = rest.count();
        TRY(guard_->protect(std::move(rest)));
        source_.give_back();
        report_.pause_us += pause.us_until(frozen.thaw());
        begin_round(pages);
        set_phase(options_.monitor, SnapshotPhase::draining);
        report_.tracker = feed_.tracker_name();
        const std::uint64_t bytes = attempt_.data_bytes();
        TRY(guard_->copy(attempt_));
        report_.staging_peak_bytes = guard_->peak_pages() * kPageSize;
        guard_.reset();
        // Not before: to switch tracking off, KVM waits until each vCPU has left its page fault, and one that waits there for room in a
        // store waits for this thread.
        subscription_.reset();
        report_.rounds.push_back({pages, attempt_.data_bytes() - bytes, pause.us()});
        return attempt_.finish(state);
    }

    // Rounds again: what the guest takes away of the protection while the rest gets it is protected in the next.
    Status protect_ahead() {
        std::uint64_t before = ~0ULL;
        while (true) {
            TRY(attempt_.check_cancelled());
            const std::uint64_t units = TRY(guard_->protect_ahead(subscription_->pages()));
            if (units <= kFewUnits || units > before / 2) {
                return {};
            }
            before = units;
        }
    }

    // False: the guest wrote more between the last look and the pause than there was kept room for, and it runs again. What was staged
    // goes to the disk then, not in the pause; unless that has been in vain often enough.
    Result<bool> pause_and_copy(QuiesceGuard quiet, bool may_be_in_vain) {
        if (staged_mode()) {
            staging_.prepare(2 * std::max(subscription_->pages().count(), kFewPages));
        } else {
            TRY(empty_staging());
        }
        FreezeGuard frozen = TRY(FreezeGuard::freeze(std::move(quiet)));
        const Stopwatch pause(frozen.since());
        set_phase(options_.monitor, SnapshotPhase::paused);
        const Attempt::State state = TRY(attempt_.take_state());
        // After the state: reading it may be what makes KVM write to guest memory last.
        TRY(feed_.collect());
        DirtySet& rest = subscription_->pages();
        const bool fits = staged_mode() && staging_.missing(rest) <= staging_.room();
        if (staged_mode() && !fits && may_be_in_vain) {
            report_.pause_us += pause.us_until(frozen.thaw());
            set_phase(options_.monitor, SnapshotPhase::copying);
            return false;
        }
        const std::uint64_t pages = rest.count();
        const std::uint64_t bytes = attempt_.data_bytes();
        begin_round(pages);
        if (fits) {
            stage(rest);
        } else {
            TRY(empty_staging());
            TRY(stream(rest));
            TRY(attempt_.settle_writes());
        }
        TRY(attempt_.follow(feed_));
        report_.rounds.push_back({pages, attempt_.data_bytes() - bytes, pause.us()});
        source_.give_back();  // what was given up is in its state by now, and the guest need not wait for the disk
        report_.pause_us += options_.keep_frozen ? pause.us() : pause.us_until(frozen.thaw());
        set_phase(options_.monitor, SnapshotPhase::draining);
        report_.staging_peak_bytes = staging_.peak() * kPageSize;
        report_.tracker = feed_.tracker_name();
        // The guest writes at full speed again while the rest goes to the disk.
        subscription_.reset();
        if (options_.monitor != nullptr) {
            options_.monitor->round_pages = staging_.used();
            options_.monitor->round_done = 0;
        }
        TRY(empty_staging());
        TRY(attempt_.finish(state));
        if (options_.keep_frozen) {
            frozen.release();
        }
        return true;
    }

    SnapshotSource& source_;
    DirtyFeed& feed_;
    Attempt& attempt_;
    const WriteOptions& options_;
    const LiveOptions& live_;
    SnapshotReport& report_;
    Staging staging_;  // outlives what is queued from it: every way out of here waits for the queue first
    std::unique_ptr<DirtyFeed::Subscription> subscription_;
    std::unique_ptr<CopyBeforeWrite> guard_;  ///< where what is left is protected at the pause
    std::unique_ptr<Throttle> throttle_;
    bool gave_in_ = false;  ///< the guest is to stand until the rest is on the disk
    double rate_ = kGuessedRate;  ///< pages a microsecond into staging
};

}  // namespace

Status write_live(SnapshotSource& source, Attempt& attempt, const WriteOptions& options, SnapshotReport& report) {
    DirtyFeed* feed = source.dirty();
    if (feed == nullptr) {
        return fail(ErrorKind::unsupported, "this host's KVM cannot tell which pages a guest writes", "use --mode stop");
    }
    LiveSnapshot snapshot(source, *feed, attempt, options, report);
    Status done = snapshot.run();
    if (!done) {
        // Queued writes read the staging memory, which ends here.
        (void)attempt.settle_writes();
    }
    return done;
}

}  // namespace snapvm
