// SPDX-License-Identifier: Apache-2.0
// A writer that fails, or dies, at any step: the area then holds the old snapshot, the new one, or
// says that it is incomplete.
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "snapshot/report/verify.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kPages = 72;

// Memory whose every page says which generation it is; the two generations have data in different
// places.
void become(FakeMachine& machine, std::uint64_t generation) {
    for (std::uint64_t page = 0; page < kPages; ++page) {
        if (page / 12 % 3 == generation % 3) {
            machine.clear(BlockId::ram_low, page);
        } else {
            machine.fill(BlockId::ram_low, page, generation);
        }
    }
    machine.records()[0].bytes.assign(24, static_cast<std::byte>(generation));
}

// Checks that an area's snapshot is whole and sound, and returns its generation, 0 if the area says
// that it is incomplete.
std::uint64_t generation_in(const AreaPath& path) {
    auto restored = open_snapshot(path);
    if (!restored) {
        EXPECT_EQ(restored.error().kind(), ErrorKind::incomplete) << restored.error().message();
        return 0;
    }
    const auto report = verify_area(path);
    EXPECT_TRUE(report.has_value());
    EXPECT_EQ(report ? report->fault_count : 1, 0U) << (report && !report->faults.empty() ? report->faults[0] : "");
    const auto generation = static_cast<std::uint64_t>(restored->saved.records[0].bytes[0]);
    FakeMachine got(*std::move(restored));
    FakeMachine wanted;
    become(wanted, generation);
    expect_same_memory(wanted, got);
    return generation;
}

class Crash : public SnapshotTest, public ::testing::WithParamInterface<std::tuple<std::uint32_t, io::EngineKind>> {
protected:
    void SetUp() override {
        // Hundreds of snapshots: where a flush costs nothing. The other tests are on a disk.
        make_folder(std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path());
        become(machine_, 1);
        become(next_, 2);
    }
    [[nodiscard]] WriteOptions options() const {
        WriteOptions options;
        std::tie(options.slots, options.engine) = GetParam();
        return options;
    }
    [[nodiscard]] bool two_slots() const { return std::get<0>(GetParam()) == 2; }

    // Steps that one snapshot over an older one takes.
    std::uint64_t count_steps(const AreaPath& path) {
        std::uint64_t steps = 0;
        WriteOptions counting = options();
        counting.hook = [&](const IoEvent&) {
            ++steps;
            return io::Fault{};
        };
        EXPECT_TRUE(write_snapshot(next_, path, counting).has_value());
        return steps;
    }
    void start_over(const AreaPath& path) {
        std::filesystem::remove(path.path);
        for (std::uint32_t i = 0; i < std::get<0>(GetParam()); ++i) {
            ASSERT_OK(write_snapshot(machine_, path, options()));
        }
    }

    FakeMachine machine_;
    FakeMachine next_;
};

TEST_P(Crash, KilledAtEachStep) {
    start_over(area());
    const std::uint64_t steps = count_steps(area());
    ASSERT_GT(steps, 8U);
    bool seen_old = false;
    bool seen_incomplete = false;
    bool seen_new = false;
    for (std::uint64_t stop = 1; stop <= steps; ++stop) {
        start_over(area());
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            WriteOptions dying = options();
            std::uint64_t step = 0;
            dying.hook = [&](const IoEvent&) {
                if (++step == stop) {
                    ::kill(::getpid(), SIGKILL);
                }
                return io::Fault{};
            };
            (void)write_snapshot(next_, area(), dying);
            ::_exit(0);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status));
        SCOPED_TRACE("step " + std::to_string(stop));
        const std::uint64_t generation = generation_in(area());
        seen_old = seen_old || generation == 1;
        seen_incomplete = seen_incomplete || generation == 0;
        seen_new = seen_new || generation == 2;
        EXPECT_TRUE(!two_slots() || generation != 0) << "two slots always have a complete one";
        // No bytes of the failed writer may come back: the next snapshot is whole, zeros included.
        become(machine_, 4);
        ASSERT_OK(write_snapshot(machine_, area(), options()));
        EXPECT_EQ(generation_in(area()), 4U);
        become(machine_, 1);
    }
    EXPECT_TRUE(seen_old);
    EXPECT_EQ(seen_incomplete, !two_slots());
    EXPECT_TRUE(seen_new) << "killed after the commit's write, before its flush";
}

TEST_P(Crash, EveryErrorAtEveryStep) {
    start_over(area());
    const std::uint64_t steps = count_steps(area());
    for (const int error : {ENOSPC, EIO}) {
        for (std::uint64_t at = 1; at <= steps; ++at) {
            SCOPED_TRACE("error " + std::to_string(error) + " at step " + std::to_string(at));
            start_over(area());
            WriteOptions failing = options();
            std::uint64_t step = 0;
            failing.hook = [&](const IoEvent&) { return io::Fault{++step == at ? error : 0, 0}; };
            const auto report = write_snapshot(next_, area(), failing);
            ASSERT_FALSE(report.has_value());
            EXPECT_EQ(report.error().code(), error);
            EXPECT_NE(report.error().message().find(area().path), std::string::npos);
            EXPECT_EQ(next_.frozen, 0);
            const std::uint64_t generation = generation_in(area());
            EXPECT_TRUE(generation == 1 || (generation == 0 && !two_slots()) || (generation == 2 && at == steps));
            ASSERT_OK(write_snapshot(next_, area(), options()));
            EXPECT_EQ(generation_in(area()), 2U);
        }
    }
}

TEST_P(Crash, ShortWritesAreContinued) {
    start_over(area());
    WriteOptions stuttering = options();
    stuttering.hook = [](const IoEvent& event) { return io::Fault{0, event.size > 4096 ? 4096U : 0U}; };
    ASSERT_OK(write_snapshot(next_, area(), stuttering));
    EXPECT_EQ(generation_in(area()), 2U);
}

TEST_P(Crash, FailedFirstSnapshotLeavesNoFile) {
    WriteOptions failing = options();
    failing.hook = [](const IoEvent& event) { return io::Fault{event.step == IoStep::pages ? ENOSPC : 0, 0}; };
    EXPECT_FALSE(write_snapshot(next_, area(), failing).has_value());
    EXPECT_FALSE(std::filesystem::exists(area().path));
    next_.fail_save = true;
    EXPECT_FALSE(write_snapshot(next_, area(), options()).has_value());
    EXPECT_FALSE(std::filesystem::exists(area().path));
    EXPECT_EQ(next_.frozen, 0);
}

TEST_P(Crash, FailedFreezeOrSaveKeepsTheOldSnapshot) {
    start_over(area());
    WriteOptions stopped = options();
    stopped.mode = SnapshotMode::stop;  // the others have begun to overwrite by then
    next_.fail_save = true;
    EXPECT_FALSE(write_snapshot(next_, area(), stopped).has_value());
    EXPECT_EQ(next_.frozen, 0);
    EXPECT_EQ(generation_in(area()), 1U);
    next_.fail_freeze = true;
    EXPECT_FALSE(write_snapshot(next_, area(), stopped).has_value());
    EXPECT_EQ(next_.frozen, 0);
    EXPECT_EQ(generation_in(area()), 1U);
}

INSTANTIATE_TEST_SUITE_P(All, Crash,
                         ::testing::Combine(::testing::Values(1U, 2U),
                                            ::testing::Values(io::EngineKind::uring, io::EngineKind::threads)),
                         [](const auto& tuple) {
                             return (std::get<0>(tuple.param) == 1 ? std::string("OneSlot") : std::string("TwoSlots")) +
                                    (std::get<1>(tuple.param) == io::EngineKind::uring ? "Uring" : "Threads");
                         });

}  // namespace
}  // namespace snapvm::test
