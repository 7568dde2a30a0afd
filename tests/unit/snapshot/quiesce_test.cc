// SPDX-License-Identifier: Apache-2.0
// Snapshots of a machine whose devices take long to drain.
#include <chrono>
#include <optional>
#include <thread>

#include "snapshot/report/verify.h"
#include "snapshot/write/throttle.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

using namespace std::chrono_literals;
using CheckCancelled = std::function<Status()>;

constexpr BlockId kLow = BlockId::ram_low;
constexpr std::uint64_t kMeanwhile = 300;  // pages; more than a pause of 10 us has time for

class QuiesceLive : public SnapshotTest {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        for (std::uint64_t page = 0; page < 600; ++page) {
            machine_.fill(kLow, page, 1);
        }
    }
    WriteOptions options(IoHook hook = {}) {
        WriteOptions options;
        options.hook = std::move(hook);
        options.live.staging_bytes = 4ULL << 20;
        options.live.max_pause = 10us;
        options.monitor = &monitor_;
        return options;
    }
    /// Writes like a guest that waits for its disk.
    void write_some(std::uint64_t generation) {
        for (std::uint64_t page = 0; page < kMeanwhile; ++page) {
            machine_.fill(kLow, page, generation);
        }
    }
    void expect_untouched() {
        EXPECT_EQ(machine_.frozen, 0);
        EXPECT_EQ(machine_.thaws, 0);
        EXPECT_EQ(machine_.quiesced, 0);
        EXPECT_FALSE(machine_.dirty()->active());
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

    FakeMachine machine_;
    SnapshotMonitor monitor_;
};

class Quiesce : public QuiesceLive, public ::testing::WithParamInterface<SnapshotMode> {
protected:
    WriteOptions options() {
        WriteOptions options = QuiesceLive::options();
        options.mode = GetParam();
        return options;
    }
};

// A slow disk does not lengthen the pause, neither by its own time nor by what the guest writes
// meanwhile.
TEST_P(Quiesce, WhatIsWrittenMeanwhileIsNotLeftToThePause) {
    for (const unsigned staging : {4U << 20, 0U}) {
        machine_.on_quiesce = [&](const CheckCancelled& check_cancelled) {
            EXPECT_EQ(machine_.frozen, 0) << "the vCPUs run meanwhile";
            EXPECT_EQ(monitor_.phase, SnapshotPhase::quiescing);
            write_some(staging);
            return check_cancelled();
        };
        WriteOptions wish = options();
        wish.live.staging_bytes = staging;
        const auto report = write_snapshot(machine_, area(), wish);
        ASSERT_OK(report);
        EXPECT_EQ(machine_.quiesced, 0);
        if (GetParam() != SnapshotMode::stop) {
            ASSERT_EQ(report->rounds.size(), 3U);
            EXPECT_EQ(report->rounds[1].dirty_pages, kMeanwhile);
            EXPECT_EQ(report->rounds[2].dirty_pages, 0U) << "of the pause";
        }
        expect_holds_the_machine();
    }
}

TEST_P(Quiesce, ThePauseIsCountedFromTheFirstVcpuAskedToStop) {
    constexpr auto kDrain = 20ms;
    std::chrono::steady_clock::time_point quiet;
    machine_.on_quiesce = [&](const CheckCancelled& check_cancelled) {
        std::this_thread::sleep_for(kDrain);
        quiet = std::chrono::steady_clock::now();
        return check_cancelled();
    };
    const auto report = write_snapshot(machine_, area(), options());
    ASSERT_OK(report);
    const auto us = [](auto time) {
        return static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::microseconds>(time).count());
    };
    EXPECT_LE(report->pause_us, us(machine_.thawed_at - quiet));
    EXPECT_GE(report->quiesce_us, us(kDrain));
}

// A disk never answers.
TEST_P(Quiesce, IsCalledOffAndTheMachineRunsOn) {
    machine_.on_quiesce = [&](const CheckCancelled& check_cancelled) {
        EXPECT_TRUE(ok(check_cancelled()));
        monitor_.cancel();
        Status wish;
        while (wish) {
            wish = check_cancelled();
        }
        return wish;
    };
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), options()), ErrorKind::cancelled, "called off"));
    expect_untouched();
    machine_.on_quiesce = [](const CheckCancelled&) { return Status(fail(ErrorKind::busy, "the disk is dead")); };
    WriteOptions next = options();
    next.monitor = nullptr;
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), next), ErrorKind::busy, "the disk is dead"));
    expect_untouched();
    machine_.on_quiesce = {};
    ASSERT_OK(write_snapshot(machine_, area(), next));
    expect_holds_the_machine();
}

TEST_P(Quiesce, WhatCannotBeStoppedLetsItsDevicesGo) {
    machine_.fail_freeze = true;
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), options()), ErrorKind::system, "freeze failed"));
    expect_untouched();
}

INSTANTIATE_TEST_SUITE_P(Modes, Quiesce,
                         ::testing::Values(SnapshotMode::live, SnapshotMode::precopy, SnapshotMode::stop),
                         [](const auto& test) {
                             switch (test.param) {
                                 case SnapshotMode::live: return "Live";
                                 case SnapshotMode::precopy: return "Precopy";
                                 case SnapshotMode::stop: return "Stop";
                             }
                             return "";
                         });

// The guest goes on with its disks while what was staged is written.
TEST_F(QuiesceLive, DevicesWorkBetweenAPauseInVainAndTheNext) {
    unsigned freezes = 0;
    machine_.on_freeze = [&] {
        if (freezes++ == 0) {
            for (std::uint64_t page = 0; page < 1500; ++page) {
                machine_.fill(kLow, page, 10);
            }
        }
    };
    bool held = false;
    const WriteOptions wish = options([&](const IoEvent& event) {
        held |= event.step == IoStep::pages && freezes == 1 && machine_.quiesced > 0;
        return io::Fault{};
    });
    const auto report = write_snapshot(machine_, area(), wish);
    machine_.on_freeze = {};
    ASSERT_OK(report);
    EXPECT_EQ(freezes, 2U);
    EXPECT_FALSE(held);
    expect_holds_the_machine();
}

// A guest that has to stay frozen until the rest is on the disk does not wait for pages that it
// wrote in the drain.
TEST_F(QuiesceLive, AGuestThatOutrunsTheCopyDoesNotStandForTheDrain) {
    std::uint64_t generation = 2;
    WriteOptions wish = options([&](const IoEvent&) {
        if (monitor_.phase == SnapshotPhase::copying) {
            ++generation;
            for (std::uint64_t page = 0; page < 600; ++page) {
                machine_.fill(kLow, page, generation);
            }
        }
        return io::Fault{};
    });
    wish.live.staging_bytes = 0;
    wish.live.when_diverging = WhenDiverging::stop;
    machine_.on_quiesce = [&](const CheckCancelled& check_cancelled) {
        for (std::uint64_t page = 600; page < 1800; ++page) {
            machine_.fill(kLow, page, 1);
        }
        std::this_thread::sleep_for(2ms);  // longer than max_pause
        return check_cancelled();
    };
    const auto report = write_snapshot(machine_, area(), wish);
    ASSERT_OK(report);
    EXPECT_EQ(report->when_diverging, "stop");
    EXPECT_LE(report->rounds.back().dirty_pages, 600U);
    EXPECT_GE(report->rounds[report->rounds.size() - 2].dirty_pages, 1200U);
    expect_holds_the_machine();
}

TEST(Throttle, GoesOnAfterADiskThatWasTooSlow) {
    FakeMachine machine;
    std::atomic<int> quiesces = 0;
    machine.on_quiesce = [&](const CheckCancelled&) -> Status {
        return ++quiesces == 1 ? Status(fail(ErrorKind::busy, "the disk is slow")) : Status{};
    };
    auto throttle = Throttle::start(machine);
    ASSERT_OK(throttle);
    for (const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
         machine.thaws == 0 && std::chrono::steady_clock::now() < until;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    throttle->reset();
    EXPECT_GT(machine.thaws, 0) << "it has ended with the first error";
    EXPECT_EQ(machine.frozen, 0);
    EXPECT_EQ(machine.quiesced, 0);
}

// A throttle waits for a disk too. Ending the throttle does not wait.
TEST(Throttle, EndsWhileADiskDoesNotAnswer) {
    FakeMachine machine;
    std::atomic<bool> waiting = false;
    machine.on_quiesce = [&](const CheckCancelled& check_cancelled) {
        Status wish;
        while ((wish = check_cancelled())) {
            waiting = true;
            std::this_thread::yield();
        }
        return wish;
    };
    auto throttle = Throttle::start(machine);
    ASSERT_OK(throttle);
    while (!waiting) {
        std::this_thread::yield();
    }
    throttle->reset();
    EXPECT_EQ(machine.frozen, 0);
    EXPECT_EQ(machine.quiesced, 0);
}

}  // namespace
}  // namespace snapvm::test
