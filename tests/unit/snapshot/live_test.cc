// SPDX-License-Identifier: Apache-2.0
// Live snapshots of a machine whose guest writes at the worst moments: during the writer's own
// steps.
#include <set>

#include "snapshot/format/page_entry.h"
#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "snapshot/write/history.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;

class Live : public SnapshotTest {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        for (std::uint64_t page = 0; page < 600; ++page) {
            machine_.fill(kLow, page, 1);
        }
    }
    /// Calls `what` once, before page data number `nth` (from 0) goes to the disk.
    static IoHook at_pages(unsigned nth, std::function<void()> what) {
        return [=, seen = 0U](const IoEvent& event) mutable {
            if (event.step == IoStep::pages && seen++ == nth) {
                what();
            }
            return io::Fault{};
        };
    }
    static WriteOptions live(IoHook hook = {}) {
        WriteOptions options;
        options.hook = std::move(hook);
        options.live.staging_bytes = 4ULL << 20;
        return options;
    }
    void expect_holds_the_machine() {
        auto restored = open_snapshot(area());
        ASSERT_OK(restored);
        FakeMachine again(*std::move(restored));
        expect_same_memory(machine_, again);
        const auto report = verify_area(area());
        ASSERT_OK(report);
        EXPECT_TRUE(report->faults.empty()) << report->faults.front();
    }
    std::uint64_t entry_word(std::uint64_t page) {
        const auto info = inspect_area(area());
        EXPECT_TRUE(info.has_value());
        const Section* entries =
            info->superblocks[*info->chosen].valid->find(SectionKind::entries, static_cast<std::uint32_t>(kLow));
        const UniqueFd fd = *open_file(area().path, O_RDONLY);
        std::uint64_t word = 0;
        EXPECT_EQ(::pread(fd.get(), &word, sizeof word, static_cast<off_t>(entries->offset + page * sizeof word)), 8);
        return word;
    }

    FakeMachine machine_;
};

// Trap: pages that the VMM itself writes are in none of KVM's logs.
TEST_F(Live, WhatTheVmmWritesAfterTheCopyIsInTheSnapshot) {
    const auto report =
        write_snapshot(machine_, area(), live(at_pages(2, [&] {
                           const std::uint64_t value = 0x1122334455667788;
                           // two pages
                           ASSERT_TRUE(ok(machine_.mutable_memory().store(Gpa{3 * kPageSize - 4}, value)));
                       })));
    ASSERT_OK(report);
    EXPECT_EQ(report->rounds.size(), 2U) << "a few pages are left to the pause";
    EXPECT_EQ(report->rounds.back().dirty_pages, 2U);
    EXPECT_EQ(machine_.frozen, 0);
    EXPECT_FALSE(machine_.dirty()->active());
    expect_holds_the_machine();
}

TEST_F(Live, StagedBytesAreShownUntilTheyAreWritten) {
    SnapshotMonitor monitor;
    std::uint64_t after_the_pause = 0;
    machine_.on_thaw = [&] { after_the_pause = monitor.staged_bytes; };
    WriteOptions options = live(at_pages(2, [&] { machine_.fill(kLow, 3, 2); }));
    options.monitor = &monitor;
    ASSERT_OK(write_snapshot(machine_, area(), options));
    EXPECT_EQ(after_the_pause, kPageSize);
    EXPECT_EQ(monitor.staged_bytes, 0U);
}

// Trap: a discard after the copy sets no dirty bit. Class and bytes must both go.
TEST_F(Live, APageGivenUpAfterItsCopyIsNotInTheSnapshot) {
    for (const std::uint32_t slots : {1U, 2U}) {
        ::unlink(area().path.c_str());
        WriteOptions options = live(at_pages(2, [&] {
            machine_.clear(kLow, 5);
            machine_.block(kLow).set_type(5, PageType::balloon);
            machine_.clear(kLow, 6);  // zero, after it was written with data
        }));
        options.slots = slots;
        machine_.fill(kLow, 5, 1);
        machine_.fill(kLow, 6, 1);
        machine_.block(kLow).set_type(5, PageType::normal);
        const auto report = write_snapshot(machine_, area(), options);
        ASSERT_OK(report);
        EXPECT_EQ(report->pages[static_cast<std::size_t>(PageClass::balloon)], 1U);
        EXPECT_EQ(PageEntry::decode(entry_word(6))->page_class, PageClass::zero);
        expect_holds_the_machine();
    }
}

// Rounds onto the disk, into memory, and both, with a guest that writes the same pages again and
// again; in every order the newest wins.
TEST_F(Live, TheNewestVersionWinsWhereverItWasCopied) {
    struct Case {
        const char* name;
        SnapshotMode mode;
        std::uint64_t staging;
    };
    for (const Case& c :
         {Case{"staged", SnapshotMode::live, 4ULL << 20}, Case{"no staging", SnapshotMode::live, 0},
          Case{"small staging", SnapshotMode::live, 100 * kPageSize}, Case{"precopy", SnapshotMode::precopy, 0}}) {
        std::uint64_t generation = 2;
        WriteOptions options;
        options.mode = c.mode;
        options.live.staging_bytes = c.staging;
        options.live.max_pause = std::chrono::microseconds(100);
        // 600 pages are three writes; each of the first sixty steps of any kind rewrites a
        // shrinking stretch.
        options.hook = [&](const IoEvent&) {
            if (generation < 60) {
                for (std::uint64_t page = 0; page < 600 / generation; ++page) {
                    machine_.fill(kLow, page * 3 % 600, generation);
                }
                ++generation;
            }
            return io::Fault{};
        };
        // What the hook writes after the pause is not of the snapshot: it stops before.
        SnapshotMonitor monitor;
        options.monitor = &monitor;
        auto hook = options.hook;
        options.hook = [&, hook](const IoEvent& event) {
            return monitor.phase == SnapshotPhase::copying ? hook(event) : io::Fault{};
        };
        const auto report = write_snapshot(machine_, area(), options);
        ASSERT_OK(report);
        SCOPED_TRACE(c.name);
        EXPECT_GE(report->rounds.size(), 3U);
        EXPECT_LE(report->staging_peak_bytes, c.staging);
        EXPECT_TRUE(c.staging != 4ULL << 20 || report->staging_peak_bytes > 0);
        expect_holds_the_machine();
    }
}

// A snapshot is cancelled at each of its steps. The machine runs on, tracking is off, and the area
// has the old snapshot or says that it is incomplete.
TEST_F(Live, CalledOffAtEveryStep) {
    for (const std::uint32_t slots : {1U, 2U}) {
        const AreaPath path = area(slots == 1 ? "one" : "two");
        ASSERT_OK(write_snapshot(machine_, path, with_slots(slots)));
        bool ended = false;
        unsigned cancelled = 0;
        for (unsigned step = 0; !ended && step < 200; ++step) {
            SnapshotMonitor monitor;
            unsigned seen = 0;
            WriteOptions options = live([&](const IoEvent&) {
                if (seen++ == step) {
                    monitor.cancel();
                }
                return io::Fault{};
            });
            options.monitor = &monitor;
            const auto report = write_snapshot(machine_, path, options);
            EXPECT_EQ(machine_.frozen, 0);
            EXPECT_FALSE(machine_.dirty()->active());
            EXPECT_EQ(monitor.phase, SnapshotPhase::done);
            ended = seen <= step;
            if (report) {
                EXPECT_TRUE(open_snapshot(path).has_value());  // too late: it was being committed
                continue;
            }
            ++cancelled;
            EXPECT_EQ(report.error().kind(), ErrorKind::cancelled) << report.error().message();
            const auto old = open_snapshot(path);
            EXPECT_EQ(old.has_value(), slots == 2);
            if (!old) {
                EXPECT_EQ(old.error().kind(), ErrorKind::incomplete);
            }
        }
        EXPECT_TRUE(ended);
        EXPECT_GT(cancelled, 3U);
    }
}

// Just before the freeze a guest writes more than staging has room for. The pause does not wait for
// the disk but is tried again. Only a guest that does so each time stays frozen until its pages are
// written.
TEST_F(Live, WhatDoesNotFitAtThePauseIsNotWrittenInIt) {
    for (const unsigned outbursts : {1U, 2U, 100U}) {
        SCOPED_TRACE(outbursts);
        unsigned freezes = 0;
        bool written_frozen = false;
        machine_.on_freeze = [&] {
            if (freezes++ < outbursts) {
                for (std::uint64_t page = 0; page < 1500; ++page) {
                    machine_.fill(kLow, page, 10 + freezes);
                }
            }
        };
        WriteOptions options = live([&](const IoEvent& event) {
            written_frozen |= event.step == IoStep::pages && machine_.frozen > 0;
            return io::Fault{};
        });
        options.live.when_diverging = WhenDiverging::stop;
        const auto report = write_snapshot(machine_, area(), options);
        machine_.on_freeze = {};
        ASSERT_OK(report);
        EXPECT_EQ(freezes, std::min(outbursts, 3U) + 1);
        EXPECT_EQ(written_frozen, outbursts == 100);
        EXPECT_EQ(machine_.frozen, 0);
        expect_holds_the_machine();
    }
}

// Class shared: the same bytes as a lower page, wherever that is, and settled anew when one of them
// changes.
TEST_F(Live, EqualPagesNameTheFirst) {
    const auto same = [&](BlockId block, std::uint64_t page) {
        std::memset(machine_.block(block).host() + page * kPageSize, 0x5A, kPageSize);
        machine_.block(block).marks().mark(page, 1);
    };
    same(kLow, 7);
    same(kLow, 20);
    same(kLow, 590);
    same(BlockId::firmware, 2);
    const auto report = write_snapshot(machine_, area(), live());
    ASSERT_OK(report);
    EXPECT_EQ(report->pages[static_cast<std::size_t>(PageClass::shared)], 3U);
    const auto names = [&](std::uint64_t page) {
        const auto entry = PageEntry::decode(entry_word(page));
        EXPECT_TRUE(entry.has_value());
        return entry->page_class == PageClass::shared ? entry->shares : ~0ULL;
    };
    EXPECT_EQ(names(7), ~0ULL);
    EXPECT_EQ(names(20), 7U);
    EXPECT_EQ(names(590), 7U);
    expect_holds_the_machine();

    // The page that others name is written between its copy and the pause. They must name another
    // page.
    const auto later = write_snapshot(machine_, area(), live(at_pages(2, [&] { machine_.fill(kLow, 7, 9); })));
    ASSERT_OK(later);
    EXPECT_EQ(later->pages[static_cast<std::size_t>(PageClass::shared)], 2U);
    EXPECT_EQ(names(20), ~0ULL);
    EXPECT_EQ(names(590), 20U);
    expect_holds_the_machine();
}

class Changed : public Live {
protected:
    Result<SnapshotReport> write(const AreaPath& path, WriteOptions options = {}) {
        options.history = &history_;
        options.track = true;
        return write_snapshot(machine_, path, options);
    }
    std::uint64_t data_pages(const SnapshotReport& report) {
        std::uint64_t bytes = 0;
        for (const SnapshotRound& round : report.rounds) {
            bytes += round.written_bytes;
        }
        return bytes / kPageSize + report.staging_peak_bytes / kPageSize;
    }
    SnapshotHistory history_;  // goes before the machine does
};

TEST_F(Changed, TheNextOneWritesOnlyWhatChanged) {
    for (const SnapshotMode mode : {SnapshotMode::live, SnapshotMode::stop, SnapshotMode::precopy}) {
        ::unlink(area().path.c_str());
        history_.clear();
        WriteOptions options;
        options.mode = mode;
        const auto first = write(area(), options);
        ASSERT_OK(first);
        EXPECT_EQ(first->type, "full");
        machine_.fill(kLow, 3, 7);
        machine_.fill(kLow, 4, 7);
        machine_.clear(kLow, 5);
        machine_.fill(kLow, 1000, 7);  // was never populated
        const auto second = write(area(), options);
        ASSERT_OK(second);
        EXPECT_EQ(second->type, "diff");
        EXPECT_EQ(data_pages(*second), 3U);
        expect_holds_the_machine();
        const auto third = write(area(), options);  // nothing at all
        ASSERT_OK(third);
        EXPECT_EQ(data_pages(*third), 0U);
        expect_holds_the_machine();
        machine_.fill(kLow, 5, 1);
    }
}

// Each slot knows what it has missed: also what went into the other one.
TEST_F(Changed, EachSlotGetsWhatItHasMissed) {
    WriteOptions options = with_slots(2);
    ASSERT_OK(write(area(), options));
    machine_.fill(kLow, 1, 7);
    const auto other = write(area(), options);
    ASSERT_OK(other);
    EXPECT_EQ(other->type, "full");
    machine_.fill(kLow, 2, 7);
    const auto third = write(area(), options);
    ASSERT_OK(third);
    EXPECT_EQ(third->type, "diff");
    EXPECT_EQ(data_pages(*third), 2U);
    expect_holds_the_machine();
    const auto fourth = write(area(), options);
    ASSERT_OK(fourth);
    EXPECT_EQ(data_pages(*fourth), 1U);
    expect_holds_the_machine();
}

// Trap: a snapshot that fails after the dirty bits were taken. The pages in it are lost to neither
// slot.
TEST_F(Changed, AFailedOneLosesNothing) {
    for (unsigned step = 0; step < 12; ++step) {
        for (const std::uint32_t slots : {1U, 2U}) {
            const AreaPath path = area();
            ::unlink(path.path.c_str());
            history_.clear();
            WriteOptions options = with_slots(slots);
            for (std::uint32_t i = 0; i < slots; ++i) {
                ASSERT_OK(write(path, options));
            }
            machine_.fill(kLow, 10 + step, 100 + step);
            WriteOptions failing = options;
            unsigned seen = 0;
            failing.hook = [&](const IoEvent&) { return io::Fault{seen++ == step ? EIO : 0, 0}; };
            const auto failed = write(path, failing);
            if (failed) {
                continue;  // fewer steps than that
            }
            for (std::uint32_t i = 0; i < slots; ++i) {
                machine_.fill(kLow, 50 + i, 200 + step);
                ASSERT_OK(write(path, options));
                expect_holds_the_machine();
            }
        }
    }
}

TEST_F(Changed, WhatIsNotKnownIsWrittenWhole) {
    WriteOptions diff;
    diff.type = SnapshotType::diff;
    EXPECT_TRUE(fails(write(area(), diff), ErrorKind::usage, "is not known"));
    ASSERT_OK(write(area()));
    // Another machine's snapshot is written into the same area.
    FakeMachine other;
    other.fill(kLow, 1, 1);
    ASSERT_OK(write_snapshot(other, area(), {}));
    EXPECT_TRUE(fails(write(area(), diff), ErrorKind::usage, "is not known"));
    const auto whole = write(area());
    ASSERT_OK(whole);
    EXPECT_EQ(whole->type, "full");
    expect_holds_the_machine();
    WriteOptions full;
    full.type = SnapshotType::full;
    const auto asked = write(area(), full);
    ASSERT_OK(asked);
    EXPECT_EQ(asked->type, "full");
    EXPECT_TRUE(machine_.dirty()->active());
    // Without `track`, tracking ends with the snapshot.
    WriteOptions last;
    last.history = &history_;
    ASSERT_OK(write_snapshot(machine_, area(), last));
    EXPECT_FALSE(machine_.dirty()->active());
}

// Each subscriber has a set of its own: what one took is still there for the other.
TEST(DirtyFeed, EachSubscriberHasItsOwnSet) {
    FakeMachine machine;
    DirtyFeed& feed = *machine.dirty();
    machine.fill(kLow, 1, 1);  // before any subscriber asked
    auto first = feed.subscribe();
    ASSERT_OK(first);
    machine.fill(kLow, 2, 1);
    auto second = feed.subscribe();
    ASSERT_OK(second);
    machine.fill(kLow, 3, 1);
    ASSERT_TRUE(ok(feed.collect()));
    EXPECT_EQ((*first)->pages().count(), 2U);
    EXPECT_EQ((*second)->pages().count(), 1U);
    (*second)->pages().clear();
    machine.fill(kLow, 4, 1);
    ASSERT_TRUE(ok(feed.collect()));
    EXPECT_EQ((*first)->pages().count(), 3U);
    EXPECT_EQ((*second)->pages().count(), 1U);
    EXPECT_TRUE((*second)->pages().has(0, 4));
    first->reset();
    EXPECT_TRUE(feed.active());
    second->reset();
    EXPECT_FALSE(feed.active());
}

/// Fails when told to, and remembers whether it is on.
class FailingTracker final : public DirtyTracker {
public:
    struct Control {
        bool fail_start = false;
        bool fail_collect = false;
        bool on = false;
    };
    explicit FailingTracker(Control& control) : control_(control) {}
    [[nodiscard]] std::string_view name() const override { return "failing"; }
    Status start() override {
        control_.on = true;  // for a part of memory
        return answer(control_.fail_start);
    }
    Status arm(std::size_t /*block*/, std::uint64_t /*first*/, std::uint64_t /*count*/) override { return {}; }
    Status collect(DirtySet& /*into*/) override { return answer(control_.fail_collect); }
    Status peek(DirtySet& /*into*/) override { return {}; }
    void stop() override { control_.on = false; }

private:
    static Status answer(bool failing) { return failing ? Status(fail(ErrorKind::system, "as told")) : Status{}; }
    Control& control_;
};

TEST(DirtyFeed, WhatAFailingTrackerHadTakenIsLostToNobody) {
    FakeMachine machine;
    FailingTracker::Control control;
    DirtyFeed feed(machine.mutable_memory(), std::make_unique<FailingTracker>(control));
    control.fail_start = true;
    EXPECT_TRUE(fails(feed.subscribe(), ErrorKind::system, "as told"));
    EXPECT_FALSE(control.on) << "tracking that nobody wants";
    EXPECT_FALSE(feed.active());
    control.fail_start = false;
    const auto first = feed.subscribe();
    ASSERT_OK(first);
    control.fail_collect = true;
    EXPECT_TRUE(fails(feed.collect(), ErrorKind::system, "as told"));
    DirtySet all(machine.memory().blocks());
    all.add_all();
    EXPECT_EQ((*first)->pages().count(), all.count());
}

TEST(DirtySet, RunsAreJoinedAcrossWords) {
    FakeMachine machine;
    DirtySet set(machine.memory().blocks());
    const std::set<std::uint64_t> wanted = {0, 1, 63, 64, 65, 127, 128, 300, 2047};
    for (const std::uint64_t page : wanted) {
        set.add(0, page);
    }
    std::set<std::uint64_t> seen;
    unsigned runs = 0;
    ASSERT_TRUE(ok(for_each_run(set.words(0), set.pages(0), [&](std::uint64_t first, std::uint64_t count) {
        ++runs;
        for (std::uint64_t page = first; page < first + count; ++page) {
            EXPECT_TRUE(seen.insert(page).second);
        }
        return Status{};
    })));
    EXPECT_EQ(seen, wanted);
    EXPECT_EQ(runs, 5U);
    EXPECT_EQ(set.count(), wanted.size());
    set.add_all();
    std::uint64_t all = 0;
    for (const MemoryBlock& block : machine.memory().blocks()) {
        all += block.spec().pages();
    }
    EXPECT_EQ(set.count(), all);
}

TEST(WriteMarks, AreClippedCollectedOnceAndOrderedByWord) {
    WriteMarks marks = *WriteMarks::of(130);
    marks.mark(60, 10);
    marks.mark(129, 100);
    marks.mark(500, 1);
    std::vector<std::uint64_t> words(3);
    marks.collect(words);
    EXPECT_EQ(words, (std::vector<std::uint64_t>{0xFULL << 60, 0x3F, 2}));
    std::ranges::fill(words, 0);
    marks.collect(words);
    EXPECT_EQ(words, std::vector<std::uint64_t>(3));
}

}  // namespace
}  // namespace snapvm::test
