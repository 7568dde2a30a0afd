// SPDX-License-Identifier: Apache-2.0
// Live snapshots of guests that write as fast as they can, with the dirty log and the dirty ring.
#include <future>
#include <thread>

#include "snapshot/report/verify.h"
#include "snapshot/restore/detach.h"
#include "snapshot/write/history.h"
#include "tests/kvm/harness.h"
#include "vmm/control/machine_service.h"
#include "vmm/control/machine_source.h"

namespace snapvm::test {
namespace {

struct LiveCase {
    const char* name;
    DirtyTracking dirty;
    std::uint32_t cpus;
    SnapshotMode mode = SnapshotMode::live;
    std::optional<std::uint64_t> staging = {};
    const char* cmdline = "ws=16M rate=0 seen=1 zero=10 dup=10";
    std::optional<WhenDiverging> outrun = {};  ///< rounds cannot catch up; how the snapshot reacts
};

// Each page is written very often, so that a write that is not copied is found at once.
constexpr const char* kStirred = "ws=2M rate=0 seen=1 zero=10 dup=10 stir=24M";

class LiveLedger : public KvmTest, public ::testing::WithParamInterface<LiveCase> {
protected:
    static bool host_tracks(DirtyTracking dirty) {
        const kvm::Capabilities& caps = system().capabilities();
        return dirty == DirtyTracking::ring ? caps.dirty_ring > 0 : caps.manual_dirty_log != 0;
    }
};

TEST_P(LiveLedger, EveryMomentIsOne) {
    const LiveCase& c = GetParam();
    if (!host_tracks(c.dirty)) {
        GTEST_SKIP() << "this KVM has no dirty " << (c.dirty == DirtyTracking::ring ? "ring" : "log");
    }
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = c.cpus, .cmdline = c.cmdline, .host = {.dirty = c.dirty}});
    int diverged = 0;
    // A guest with little processor time outruns only a slower disk. So the disk gets slower until
    // a snapshot was outrun.
    const auto slow_disk = [](int moment) { return 1ms * (1 << std::min(moment, 6)); };
    const auto until = soon();
    for (int moment = 0; moment < 4 || (c.outrun && diverged == 0 && SteadyClock::now() < until); ++moment) {
        run_a_while(20ms);
        WriteOptions options;
        options.mode = c.mode;
        options.live.staging_bytes = c.staging;
        if (c.outrun) {
            options.live.max_pause = 1us;
            options.live.when_diverging = *c.outrun;
            options.hook = [delay = slow_disk(moment)](const IoEvent& event) {
                if (event.step == IoStep::pages) {
                    std::this_thread::sleep_for(delay);
                }
                return io::Fault{};
            };
        }
        const SnapshotReport report = snapshot(*machine, area(), options);
        EXPECT_EQ(report.tracker, c.dirty == DirtyTracking::ring ? "ring" : "log");
        EXPECT_GE(report.rounds.size(), 2U);
        diverged += report.diverged ? 1 : 0;
        EXPECT_EQ(report.diverged, !report.when_diverging.empty());
        EXPECT_GT(report.pages[static_cast<std::size_t>(PageClass::shared)], 0U);
        EXPECT_EQ(check_ledger(need(open_snapshot(area())).memory), "") << "moment " << moment;
        EXPECT_EQ(need(verify_area(area())).fault_count, 0U) << "moment " << moment;
    }
    EXPECT_TRUE(diverged > 0 || !c.outrun);
    const std::unique_ptr<Machine> restored = restore(area());
    need(restored->resume());
    const LedgerLine line = verify_ledger(*restored);
    EXPECT_TRUE(line.ok) << line.text;
    expect_sound_end(*restored);
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, LiveLedger,
    ::testing::Values(
        LiveCase{"Log1", DirtyTracking::log, 1}, LiveCase{"Log2", DirtyTracking::log, 2},
        LiveCase{"Log4", DirtyTracking::log, 4}, LiveCase{"Ring1", DirtyTracking::ring, 1},
        LiveCase{"Ring2", DirtyTracking::ring, 2}, LiveCase{"Ring4", DirtyTracking::ring, 4},
        LiveCase{"LogStirred", DirtyTracking::log, 2, SnapshotMode::live, {}, kStirred},
        LiveCase{"RingStirred", DirtyTracking::ring, 2, SnapshotMode::live, {}, kStirred},
        LiveCase{"LogPrecopy", DirtyTracking::log, 2, SnapshotMode::precopy},
        LiveCase{"RingPrecopy", DirtyTracking::ring, 2, SnapshotMode::precopy},
        LiveCase{"LogWithoutStaging", DirtyTracking::log, 2, SnapshotMode::live, 0},
        LiveCase{"LogWithLittleStaging", DirtyTracking::log, 2, SnapshotMode::live, 1ULL << 20},
        LiveCase{"LogProtected", DirtyTracking::log, 2, SnapshotMode::live, 0, kStirred, WhenDiverging::protect},
        LiveCase{"RingProtected", DirtyTracking::ring, 4, SnapshotMode::live, 0, kStirred, WhenDiverging::protect},
        LiveCase{"LogThrottled", DirtyTracking::log, 2, SnapshotMode::live, 0, kStirred, WhenDiverging::throttle},
        LiveCase{"RingThrottled", DirtyTracking::ring, 1, SnapshotMode::live, 0, kStirred, WhenDiverging::throttle},
        LiveCase{"LogStopped", DirtyTracking::log, 4, SnapshotMode::live, 0, kStirred, WhenDiverging::stop}),
    [](const auto& test) { return test.param.name; });

class LiveMachine : public KvmTest {};

// Repeated snapshots of changes only, by log and by ring, in one slot and two. Each must be whole.
TEST_F(LiveMachine, AChainOfDiffsIsWholeAtEachLink) {
    for (const DirtyTracking dirty : {DirtyTracking::log, DirtyTracking::ring}) {
        if (dirty == DirtyTracking::ring && system().capabilities().dirty_ring == 0) {
            continue;
        }
        for (const std::uint32_t slots : {1U, 2U}) {
            const std::unique_ptr<Machine> machine =
                boot_ledger({.cpus = 2, .cmdline = "ws=8M rate=2000 seen=1 pattern=hot", .host = {.dirty = dirty}});
            SnapshotHistory history;
            const AreaPath path =
                area("chain" + std::to_string(slots) + (dirty == DirtyTracking::log ? "log" : "ring"));
            SCOPED_TRACE(path.path);
            for (unsigned link = 0; link < 8; ++link) {
                WriteOptions options;
                options.slots = slots;
                options.history = &history;
                options.track = true;
                options.mode = link % 4 == 3 ? SnapshotMode::stop : SnapshotMode::live;
                const SnapshotReport report = snapshot(*machine, path, options);
                EXPECT_EQ(report.type, link < slots ? "full" : "diff");
                EXPECT_EQ(check_ledger(need(open_snapshot(path)).memory), "") << "link " << link;
                EXPECT_EQ(need(verify_area(path)).fault_count, 0U) << "link " << link;
                run_a_while(20ms);
            }
            const std::unique_ptr<Machine> restored = restore(path);
            need(restored->resume());
            EXPECT_TRUE(verify_ledger(*restored).ok);
            history.clear();
            expect_sound_end(*machine);
        }
    }
}

// Detaches under full write load, tracked or not. What the machine held and what it wrote meanwhile
// must be there afterwards, and must go into its own area.
TEST_F(LiveMachine, DetachesUnderLoad) {
    for (const bool track : {false, true}) {
        const AreaPath path = area(track ? "tracked" : "plain");
        SCOPED_TRACE(path.path);
        {
            const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=24M rate=0"});
            (void)snapshot(*machine, path, {});
        }
        const std::unique_ptr<Machine> machine = restore(path);
        need(machine->resume());
        SnapshotHistory history;
        WriteOptions options;
        options.history = &history;
        options.track = track;
        const AreaPath other = area(track ? "other-tracked" : "other");
        (void)snapshot(*machine, other, options);
        MachineSnapshotSource source(*machine);
        const DetachReport report = need(detach_snapshot(source, machine->memory()));
        EXPECT_TRUE(report.mapped);
        EXPECT_GT(report.freezes, 0U);
        EXPECT_EQ(snapshot(*machine, other, options).type, track ? "diff" : "full");
        EXPECT_EQ(check_ledger(need(open_snapshot(other)).memory), "");
        (void)snapshot(*machine, path, {});
        EXPECT_EQ(check_ledger(need(open_snapshot(path)).memory), "");
        history.clear();
        expect_sound_end(*machine);
        const std::unique_ptr<Machine> again = restore(path);
        need(again->resume());
        EXPECT_TRUE(verify_ledger(*again).ok);
    }
}

TEST_F(LiveMachine, ADetachIsSeenInTheStatusAndCalledOff) {
    {
        const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=24M rate=0"});
        (void)snapshot(*machine, area(), {});
    }
    bool called_off = false;
    for (const auto until = soon(); !called_off && SteadyClock::now() < until;) {  // it may end before it is seen
        const std::unique_ptr<Machine> machine = restore(area());
        need(machine->resume());
        MachineService service(*machine, "detaching");
        auto detached = std::async(std::launch::async, [&] { return service.detach(); });
        while (detached.wait_for(0s) != std::future_status::ready) {
            if (const SnapshotStatus status = service.snapshot_status(); status.phase == SnapshotPhase::detaching) {
                EXPECT_LE(status.round_done, status.round_pages);
                (void)service.cancel_snapshot();
            }
        }
        const auto result = detached.get();
        called_off = !result;
        if (called_off) {
            EXPECT_EQ(result.error().kind(), ErrorKind::cancelled) << result.error().message();
            EXPECT_TRUE(need(service.detach()).mapped) << "still";
        }
        EXPECT_FALSE(service.snapshot_status().phase.has_value());
        expect_sound_end(*machine);
    }
    EXPECT_TRUE(called_off);
}

// Trap: the ring is full. More pages than a ring has entries are dirtied before a collect.
TEST_F(LiveMachine, AFullRingLosesNothing) {
    if (system().capabilities().dirty_ring == 0) {
        GTEST_SKIP() << "this KVM has no dirty ring";
    }
    const std::unique_ptr<Machine> machine = create_ledger(
        {.cpus = 1, .cmdline = "ws=300M rate=0", .memory_bytes = 640ULL << 20, .host = {.dirty = DirtyTracking::ring}});
    DirtyFeed& feed = *machine->dirty();
    const auto subscription = need(feed.subscribe());
    feed.all_armed();
    need(machine->resume());
    ASSERT_TRUE(machine->wait_ready(soon()));  // 76,800 pages written by one vCPU
    need(feed.collect());
    EXPECT_GE(subscription->pages().count(), 76'800U);
    expect_sound_end(*machine);
}

TEST_F(LiveMachine, ASnapshotInTheBackgroundIsCalledOffAndTheNextIsWhole) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=16M rate=0"});
    MachineService service(*machine, "live");
    EXPECT_EQ(need_error(service.cancel_snapshot()).kind(), ErrorKind::usage);
    EXPECT_FALSE(service.snapshot_status().phase.has_value());
    SnapshotRequest request;
    request.area = area();
    need(service.start_snapshot(request));
    const auto wait = [&] {
        for (auto until = soon();
             SteadyClock::now() < until && service.snapshot_status().phase != SnapshotPhase::done;) {
            std::this_thread::sleep_for(1ms);
        }
        return service.snapshot_status();
    };
    // The cancellation may come too late. In both cases the snapshot ends and the machine goes on.
    (void)service.cancel_snapshot();
    const SnapshotStatus first = wait();
    EXPECT_TRUE(first.report.has_value() || (first.error && first.error->kind() == ErrorKind::cancelled));
    need(service.start_snapshot(request));
    EXPECT_TRUE(wait().report.has_value());
    EXPECT_EQ(check_ledger(need(open_snapshot(area())).memory), "");
    expect_sound_end(*machine);
}

TEST_F(LiveMachine, AForcedStopCallsASnapshotOff) {
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = 1, .cmdline = "ws=128M rate=0", .memory_bytes = 256ULL << 20});
    MachineService service(*machine, "stopped");
    SnapshotRequest request;
    request.area = area();
    request.mode = SnapshotMode::stop;
    need(service.start_snapshot(request));
    const auto wait_for = [&](auto done) {
        for (auto until = soon(); SteadyClock::now() < until && !done(service.snapshot_status());) {
            std::this_thread::sleep_for(100us);
        }
        return service.snapshot_status();
    };
    (void)wait_for([](const SnapshotStatus& status) { return status.written_bytes > 0; });
    EXPECT_EQ(need(service.stop({.force = true, .timeout = 0ms})).kind, Outcome::Kind::stopped);
    const SnapshotStatus over =
        wait_for([](const SnapshotStatus& status) { return status.phase == SnapshotPhase::done; });
    ASSERT_TRUE(over.error.has_value());
    EXPECT_EQ(over.error->message(), "the machine has ended (stopped) before the snapshot was complete");
}

// Several clients request a background snapshot at the same moment. One at a time gets it, and each
// that starts must end.
TEST_F(LiveMachine, ManyWhoAskAtOnceGetOneAtATime) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=2M"});
    {
        MachineService service(*machine, "asked");
        std::atomic<unsigned> begun = 0;
        const auto ask = [&](const std::string& name) {
            for (unsigned i = 0; i < 20; ++i) {
                SnapshotRequest request;
                request.area = area(name);
                if (const Status started = service.start_snapshot(request)) {
                    ++begun;
                } else {
                    EXPECT_EQ(started.error().kind(), ErrorKind::busy) << started.error().message();
                }
            }
        };
        std::thread other(ask, "a");
        ask("b");
        other.join();
        EXPECT_GT(begun, 0U);
    }
    expect_sound_end(*machine);
}

// A snapshot whose instant can no longer come must end.
TEST_F(LiveMachine, ARunThatEndsEndsItsSnapshot) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=24M rate=0"});
    MachineService service(*machine, "ending");
    SnapshotRequest request;
    request.area = area();
    need(service.start_snapshot(request));
    machine->end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    service.run_ended();
    for (auto until = soon(); SteadyClock::now() < until && service.snapshot_status().phase != SnapshotPhase::done;) {
        std::this_thread::sleep_for(1ms);
    }
    const SnapshotStatus status = service.snapshot_status();
    EXPECT_EQ(status.phase, SnapshotPhase::done);
    if (!status.report) {  // otherwise the snapshot was faster
        ASSERT_TRUE(status.error.has_value());
        EXPECT_NE(status.error->message().find("has ended"), std::string::npos) << status.error->message();
    }
}

// A live snapshot writes `writing` into the area before the machine is stopped. A machine that
// cannot be stopped any more must be refused before that.
TEST_F(LiveMachine, AMachineThatHasEndedCostsNoSnapshot) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=2M"});
    MachineService service(*machine, "ended");
    SnapshotRequest request;
    request.area = area();
    need(service.snapshot(request));
    machine->end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    EXPECT_EQ(need_error(service.snapshot(request)).kind(), ErrorKind::usage);
    EXPECT_EQ(check_ledger(need(open_snapshot(area())).memory), "");
}

}  // namespace
}  // namespace snapvm::test
