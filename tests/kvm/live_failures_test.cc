// SPDX-License-Identifier: Apache-2.0
// A disk that fails or is full at any one write of a live snapshot. The guest runs on, no page is
// lost, and the next snapshot is whole.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <thread>

#include "snapshot/report/verify.h"
#include "snapshot/write/history.h"
#include "tests/kvm/harness.h"
#include "vmm/control/machine_source.h"

namespace snapvm::test {
namespace {

struct FailureCase {
    const char* name;
    std::uint32_t slots;
    std::optional<std::uint64_t> staging = {};
    bool outrun = false;  ///< rounds cannot catch up, so that the rest is write-protected
    DirtyTracking dirty = DirtyTracking::log;
};

class LiveFailures : public KvmTest, public ::testing::WithParamInterface<FailureCase> {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        if (GetParam().dirty == DirtyTracking::ring && system().capabilities().dirty_ring == 0) {
            GTEST_SKIP() << "this KVM has no dirty ring";
        }
        machine_ = boot_ledger(
            {.cpus = 2, .cmdline = "ws=2M rate=0 zero=10 dup=10 stir=4M", .host = {.dirty = GetParam().dirty}});
    }
    WriteOptions options(IoHook hook) {
        WriteOptions options;
        options.slots = GetParam().slots;
        options.live.staging_bytes = GetParam().staging;
        // Each snapshot starts from the last one's history. If a failure lost dirty bits, the next
        // one would be wrong.
        options.history = &history_;
        options.track = true;
        options.hook = std::move(hook);
        if (GetParam().outrun) {
            options.live.max_pause = 1us;
        }
        return options;
    }
    // Returns whether the area has a whole snapshot, false if it says that it is incomplete.
    bool holds_one() {
        auto restored = open_snapshot(area());
        if (!restored) {
            EXPECT_EQ(restored.error().kind(), ErrorKind::incomplete) << restored.error().message();
            return false;
        }
        EXPECT_EQ(check_ledger(restored->memory), "");
        const VerifyReport report = need(verify_area(area()));
        EXPECT_EQ(report.fault_count, 0U) << report.faults.front();
        return true;
    }
    void expect_whole(const WriteOptions& options) {
        (void)snapshot(*machine_, area(), options);
        EXPECT_TRUE(holds_one());
    }
    static void slow_down(const IoEvent& event) {
        if (GetParam().outrun && event.step == IoStep::pages) {
            std::this_thread::sleep_for(200us);
        }
    }

    std::unique_ptr<Machine> machine_;
    SnapshotHistory history_;  // ends before the machine
};

// SNAPVM_TEST_STRIDE is 1, or n for a slow build: an error then meets every nth write.
unsigned stride() {
    const char* stride = std::getenv("SNAPVM_TEST_STRIDE");
    return stride != nullptr ? static_cast<unsigned>(std::max(1, std::atoi(stride))) : 1;
}

TEST_P(LiveFailures, EveryErrorAtEveryWrite) {
    for (std::uint32_t slot = 0; slot < GetParam().slots; ++slot) {
        expect_whole(options({}));
    }
    for (const int error : {ENOSPC, EIO}) {
        bool failed = true;
        unsigned at = 0;
        for (; failed; at += stride()) {
            SCOPED_TRACE("error " + std::to_string(error) + " at write " + std::to_string(at));
            unsigned step = 0;
            bool met = false;
            MachineSnapshotSource source(*machine_);
            const auto report = write_snapshot(source, area(), options([&](const IoEvent& event) {
                                                   slow_down(event);
                                                   met = met || step == at;
                                                   return io::Fault{step++ == at ? error : 0, 0};
                                               }));
            failed = !report.has_value();
            ASSERT_EQ(failed, met);  // if no write met the fault, all writes have been tried
            if (failed) {
                EXPECT_EQ(report.error().code(), error) << report.error().message();
                EXPECT_NE(report.error().message().find(area().path), std::string::npos) << report.error().message();
            }
            EXPECT_EQ(machine_->state(), Machine::State::running);
            EXPECT_TRUE(holds_one() || GetParam().slots == 1) << "two slots always have a complete one";
            expect_whole(options({}));
            ASSERT_FALSE(HasFailure());
        }
        EXPECT_GT(at, 10U) << "so few writes are no snapshot";
    }
    expect_sound_end(*machine_);
}

TEST_P(LiveFailures, ShortWritesAreContinued) {
    for (int moment = 0; moment < 4; ++moment) {
        expect_whole(
            options([](const IoEvent& event) { return io::Fault{0, event.size > kPageSize ? kPageSize : 0}; }));
    }
    expect_sound_end(*machine_);
}

INSTANTIATE_TEST_SUITE_P(Cases, LiveFailures,
                         ::testing::Values(FailureCase{"Staged", 1}, FailureCase{"TwoSlots", 2},
                                           FailureCase{"Ring", 1, {}, false, DirtyTracking::ring},
                                           FailureCase{"WithoutStaging", 1, 0}, FailureCase{"Protected", 1, 0, true},
                                           FailureCase{"ProtectedTwoSlots", 2, 0, true, DirtyTracking::ring}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace snapvm::test
