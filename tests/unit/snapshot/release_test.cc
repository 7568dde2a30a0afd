// SPDX-License-Identifier: Apache-2.0
// Snapshots without the guest's free memory. The memory is taken before, is in none of the
// snapshot's pages, and is given back on every path.
#include "snapshot/report/verify.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;
constexpr std::uint64_t kFree = 200;  // pages, from kFirst on
constexpr std::uint64_t kFirst = 300;

class ReleaseFree : public SnapshotTest, public ::testing::WithParamInterface<SnapshotMode> {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        for (std::uint64_t page = 0; page < 600; ++page) {
            machine_.fill(kLow, page, 1);
        }
        machine_.on_release = [this](std::uint64_t max_bytes,
                                     const std::function<Status()>& check_cancelled) -> Result<std::uint64_t> {
            EXPECT_EQ(monitor_.phase, SnapshotPhase::releasing);
            asked_ = max_bytes;
            TRY(check_cancelled());
            TRY(machine_.block(kLow).discard(kFirst, kFree, PageType::balloon));
            return kFree * kPageSize;
        };
        machine_.on_give_back = [this] {
            ++given_back_;
            frozen_then_ = machine_.frozen;
            with_thaw_ = machine_.thawing;
            machine_.block(kLow).reclaim(kFirst, kFree);
        };
    }
    WriteOptions options() {
        WriteOptions options;
        options.mode = GetParam();
        options.monitor = &monitor_;
        options.release_free = kFree * kPageSize;
        return options;
    }

    FakeMachine machine_;
    SnapshotMonitor monitor_;
    std::uint64_t asked_ = 0;
    int given_back_ = 0;
    int frozen_then_ = 0;
    bool with_thaw_ = false;
};

TEST_P(ReleaseFree, IsInTheSnapshotAsTheBalloonsAndInTheGuestAgain) {
    unsigned behind = 0;
    WriteOptions wish = options();
    wish.hook = [&](const IoEvent&) {
        behind += given_back_ > 0 ? 1 : 0;
        return io::Fault{};
    };
    const auto report = write_snapshot(machine_, area(), wish);
    ASSERT_OK(report);
    EXPECT_EQ(asked_, kFree * kPageSize);
    EXPECT_EQ(report->released_bytes, kFree * kPageSize);
    EXPECT_EQ(report->pages[static_cast<std::size_t>(PageClass::balloon)], kFree);
    EXPECT_EQ(report->pages[static_cast<std::size_t>(PageClass::common)], 600 - kFree);
    EXPECT_EQ(given_back_, 1);
    EXPECT_EQ(frozen_then_, 0);
    EXPECT_TRUE(with_thaw_) << "later it could wait for somebody who waits for this thread";
    EXPECT_EQ(behind > 0, GetParam() != SnapshotMode::stop) << "the guest does not wait for the disk";
    FakeMachine again(*open_snapshot(area()));
    expect_same_memory(machine_, again);
    const auto verified = verify_area(area());
    ASSERT_OK(verified);
    EXPECT_TRUE(verified->faults.empty());
}

TEST_P(ReleaseFree, IsNotAskedForUnlessWished) {
    WriteOptions plain = options();
    plain.release_free.reset();
    const auto report = write_snapshot(machine_, area(), plain);
    ASSERT_OK(report);
    EXPECT_EQ(asked_, 0U);
    EXPECT_EQ(report->released_bytes, 0U);
    EXPECT_EQ(given_back_, 0);
}

// A machine that is kept frozen gets its memory back with the thaw at the latest.
TEST_P(ReleaseFree, AMachineThatStaysFrozenHasItBackToo) {
    WriteOptions frozen = options();
    frozen.keep_frozen = true;
    ASSERT_OK(write_snapshot(machine_, area(), frozen));
    EXPECT_EQ(machine_.frozen, 1);
    EXPECT_EQ(given_back_, 0);
    machine_.thaw();
    EXPECT_EQ(given_back_, 1);
}

// The snapshot is cancelled, or fails, at each of its steps.
TEST_P(ReleaseFree, IsGivenBackOnEveryWayOut) {
    for (const bool cancel : {false, true}) {
        bool over = false;
        for (unsigned step = 0; !over; ++step) {
            ASSERT_LT(step, 200U);
            unsigned seen = 0;
            SnapshotMonitor monitor;
            monitor_.phase = SnapshotPhase::releasing;  // of no account here
            WriteOptions wish = options();
            wish.monitor = &monitor;
            wish.hook = [&](const IoEvent&) {
                const bool now = seen++ == step;
                if (now && cancel) {
                    monitor.cancel();
                }
                return io::Fault{now && !cancel ? EIO : 0, 0};
            };
            given_back_ = 0;
            asked_ = 0;
            (void)write_snapshot(machine_, area(), wish);
            over = seen <= step;
            EXPECT_EQ(given_back_, asked_ != 0 ? 1 : 0);
            EXPECT_FALSE(machine_.lent);
            EXPECT_EQ(machine_.frozen, 0);
            EXPECT_EQ(machine_.quiesced, 0);
        }
    }
    machine_.fail_freeze = true;
    given_back_ = 0;
    EXPECT_FALSE(write_snapshot(machine_, area(), options()).has_value());
    EXPECT_EQ(given_back_, 1);
}

TEST_P(ReleaseFree, IsCalledOffWhileTheGuestIsAsked) {
    machine_.on_release = [this](std::uint64_t /*max_bytes*/,
                                 const std::function<Status()>& check_cancelled) -> Result<std::uint64_t> {
        monitor_.cancel();
        Status wish;
        while (wish) {
            wish = check_cancelled();
        }
        return fail(wish.error());
    };
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), options()), ErrorKind::cancelled));
    EXPECT_EQ(machine_.thaws, 0);
    EXPECT_FALSE(machine_.dirty()->active());
}

std::string mode_name(const ::testing::TestParamInfo<SnapshotMode>& test) {
    constexpr std::array kNames = {"Live", "Precopy", "Stop"};
    return kNames[static_cast<std::size_t>(test.param)];
}

INSTANTIATE_TEST_SUITE_P(Modes, ReleaseFree,
                         ::testing::Values(SnapshotMode::live, SnapshotMode::precopy, SnapshotMode::stop), mode_name);

}  // namespace
}  // namespace snapvm::test
