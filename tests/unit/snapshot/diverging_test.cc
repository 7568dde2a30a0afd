// SPDX-License-Identifier: Apache-2.0
// Guests that write faster than they are copied, and how snapshots react.
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "snapshot/write/area_destination.h"
#include "snapshot/write/copy_before_write.h"
#include "snapshot/write/job.h"
#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/memory/userfaultfd.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;

/// Rewrites random pages on a thread while the machine is not frozen, and remembers memory as it
/// was at the last thaw.
class Scribbler {
public:
    explicit Scribbler(FakeMachine& machine) : machine_(machine) {
        machine_.on_freeze = [this] { halt(); };
        machine_.on_thaw = [this] {
            remember();
            go();
        };
        go();
    }
    Scribbler(const Scribbler&) = delete;
    Scribbler& operator=(const Scribbler&) = delete;
    ~Scribbler() {
        machine_.on_freeze = {};
        machine_.on_thaw = {};
        halt();
    }
    [[nodiscard]] const std::vector<std::byte>& at_last_thaw() const { return memory_; }
    [[nodiscard]] std::uint64_t written() const { return generation_; }
    /// Returns when it has written 300 more pages, or was frozen.
    void await_writes() const {
        for (const std::uint64_t enough = generation_ + 300; generation_ < enough && machine_.frozen == 0;) {
            std::this_thread::yield();
        }
    }

private:
    void go() {
        halted_ = false;
        thread_ = std::thread([this] {
            while (!halted_) {
                ++generation_;
                scribble(generation_ * 7919 % kPages, generation_);
            }
        });
    }
    /// Writes like a vCPU: ThreadSanitizer does not see a vCPU's writes either.
    __attribute__((no_sanitize("thread"))) void scribble(std::uint64_t page, std::uint64_t value) {
        auto* at = reinterpret_cast<volatile std::uint64_t*>(machine_.block(kLow).host() + page * kPageSize);
        for (std::size_t i = 0; i < kPageSize / sizeof value; ++i) {
            value = value * 6364136223846793005ULL + 1442695040888963407ULL;
            at[i] = value;
        }
        machine_.block(kLow).marks().mark(page, 1);
    }
    void halt() {
        halted_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
    }
    void remember() {
        const std::byte* low = machine_.block(kLow).host();
        memory_.assign(low, low + kPages * kPageSize);
    }
    static constexpr std::uint64_t kPages = 1500;

    FakeMachine& machine_;
    std::atomic<bool> halted_ = false;
    std::atomic<std::uint64_t> generation_ = 1;
    std::vector<std::byte> memory_;
    std::thread thread_;
};

class Diverging : public SnapshotTest {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        for (std::uint64_t page = 0; page < 600; ++page) {
            machine_.fill(kLow, page, 1);
        }
    }
    static WriteOptions live(IoHook hook) {
        WriteOptions options;
        options.hook = std::move(hook);
        return options;
    }

    FakeMachine machine_;
};

// A guest that rewrites all of its pages in every round: the remainder never shrinks.
TEST_F(Diverging, AGuestThatOutrunsTheCopyIsStoppedOrTheSnapshotGivesUp) {
    SnapshotMonitor monitor;
    std::uint64_t generation = 1;
    const auto rewrite = [&](const IoEvent&) {
        if (monitor.phase == SnapshotPhase::copying) {
            ++generation;
            for (std::uint64_t page = 0; page < 600; ++page) {
                machine_.fill(kLow, page, generation);
            }
        }
        return io::Fault{};
    };
    WriteOptions options = live(rewrite);
    options.monitor = &monitor;
    options.live.staging_bytes = 0;
    options.live.max_pause = std::chrono::microseconds(10);
    options.live.when_diverging = WhenDiverging::stop;
    const auto stopped = write_snapshot(machine_, area(), options);
    ASSERT_OK(stopped);
    EXPECT_TRUE(stopped->diverged);
    EXPECT_EQ(stopped->when_diverging, "stop");
    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    FakeMachine again(*std::move(restored));
    expect_same_memory(machine_, again);

    options.live.when_diverging = WhenDiverging::cancel;
    options.slots = 2;
    const auto cancelled = write_snapshot(machine_, area("two"), options);
    EXPECT_TRUE(fails(cancelled, ErrorKind::cancelled, "faster than it can be copied"));
    EXPECT_EQ(machine_.frozen, 0);
    EXPECT_FALSE(machine_.dirty()->active());
}

// However a snapshot reacts to a guest that outruns it, it holds one instant, at which the guest
// was thawed.
TEST_F(Diverging, AGuestThatOutrunsTheCopyIsCaughtAtOneInstant) {
    for (const WhenDiverging wish : {WhenDiverging::protect, WhenDiverging::throttle, WhenDiverging::stop}) {
        for (const std::uint64_t staging : {std::uint64_t{0}, 200 * kPageSize}) {
            SCOPED_TRACE(std::string(name_of(wish)) + ", staging " + std::to_string(staging));
            ::unlink(area().path.c_str());
            Scribbler guest(machine_);
            SnapshotMonitor monitor;
            WriteOptions options = live([&](const IoEvent&) {
                if (monitor.phase == SnapshotPhase::copying) {
                    guest.await_writes();
                }
                return io::Fault{};
            });
            options.monitor = &monitor;
            options.live.staging_bytes = staging;
            options.live.max_pause = std::chrono::microseconds(1);
            options.live.when_diverging = wish;
            const int thaws = machine_.thaws;
            const auto report = write_snapshot(machine_, area(), options);
            ASSERT_OK(report);
            EXPECT_EQ(machine_.frozen, 0);
            EXPECT_FALSE(machine_.dirty()->active());
            EXPECT_TRUE(report->diverged);
            // Without userfaultfd, protect becomes throttle. If throttle does not suffice, it
            // becomes stop.
            if (wish == WhenDiverging::stop) {
                EXPECT_EQ(report->when_diverging, "stop");
            }
            if (report->when_diverging == "throttle" || wish == WhenDiverging::throttle) {
                EXPECT_GT(machine_.thaws - thaws, 1);
            } else {
                EXPECT_EQ(machine_.thaws - thaws, 1);
            }
            if (report->when_diverging == "protect") {
                EXPECT_GT(report->staging_peak_bytes, 0U);
            }
            auto restored = open_snapshot(area());
            ASSERT_OK(restored);
            const MemoryBlock& low = *restored->memory.find(kLow);
            for (std::uint64_t page = 0; page * kPageSize < guest.at_last_thaw().size(); ++page) {
                ASSERT_EQ(std::memcmp(low.host() + page * kPageSize, guest.at_last_thaw().data() + page * kPageSize,
                                      kPageSize),
                          0)
                    << "page " << page << ", " << report->when_diverging;
            }
            const auto verified = verify_area(area());
            ASSERT_OK(verified);
            EXPECT_TRUE(verified->faults.empty()) << verified->faults.front();
        }
    }
}

// Before Linux 6.4 an absent page cannot be protected. That is harmless until a balloon has taken
// some.
TEST_F(Diverging, OnAnOlderKernelABalloonsMachineIsThrottled) {
    struct OlderKernel {
        OlderKernel() { hide_userfaultfd_features(kUffdProtectsUnpopulated); }
        ~OlderKernel() { hide_userfaultfd_features(0); }
    };
    std::optional<OlderKernel> older(std::in_place);
    if (auto guard = CopyBeforeWrite::prepare(machine_.memory(), 0); !guard) {
        GTEST_SKIP() << "userfaultfd cannot be used here: " << guard.error().message();
    }
    ASSERT_OK(machine_.block(kLow).discard(2000, 8, PageType::balloon));
    const bool newer = [&] {
        older.reset();
        const bool prepared = CopyBeforeWrite::prepare(machine_.memory(), 0).has_value();
        older.emplace();
        return prepared;
    }();
    for (const bool hidden : {true, false}) {
        if (!hidden) {
            older.reset();
        }
        ::unlink(area().path.c_str());
        Scribbler guest(machine_);
        SnapshotMonitor monitor;
        WriteOptions options = live([&](const IoEvent&) {
            if (monitor.phase == SnapshotPhase::copying) {
                guest.await_writes();
            }
            return io::Fault{};
        });
        options.monitor = &monitor;
        options.live.staging_bytes = 0;
        options.live.max_pause = std::chrono::microseconds(1);
        const auto report = write_snapshot(machine_, area(), options);
        ASSERT_OK(report);
        EXPECT_TRUE(report->diverged);
        if (hidden || !newer) {
            EXPECT_TRUE(report->when_diverging == "throttle" || report->when_diverging == "stop")
                << report->when_diverging;
            EXPECT_NE(report->protect_refused.find("balloon"), std::string::npos) << report->protect_refused;
            EXPECT_NE(to_json(*report).find("6.4"), std::string::npos) << "it says what to do";
        } else {
            EXPECT_EQ(report->when_diverging, "protect");
            EXPECT_EQ(report->protect_refused, "");
        }
        const auto verified = verify_area(area());
        ASSERT_OK(verified);
        EXPECT_TRUE(verified->faults.empty()) << verified->faults.front();
    }
}

// The guest ran into the protection just before the instant. Its fault has been read and not
// handled when the pages are protected.
TEST_F(Diverging, AFaultOfBeforeTheInstantLeavesNothingUnprotected) {
    constexpr std::uint64_t kPage = 7;
    auto opened = AreaDestination::open(machine_, area(), {});
    ASSERT_OK(opened);
    std::optional<AreaDestination> destination(*std::move(opened));
    auto job = SnapshotJob::open(machine_, *destination, {});
    ASSERT_OK(job);
    ASSERT_OK(job->begin());
    for (std::size_t i = 0; i < machine_.memory().blocks().size(); ++i) {
        ASSERT_OK(job->stream(i, 0, machine_.memory().blocks()[i].spec().pages()));
    }
    ASSERT_OK(job->drain());
    std::atomic<bool> fault_read = false;
    std::atomic<bool> protecting = false;
    const auto wait_for = [](const std::atomic<bool>& flag, std::chrono::milliseconds most) {
        for (const auto until = std::chrono::steady_clock::now() + most;
             !flag && std::chrono::steady_clock::now() < until;) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    };
    CopyHooks hooks;
    hooks.fault_read = [&] {
        fault_read = true;
        wait_for(protecting, std::chrono::seconds(30));
    };
    hooks.protecting = [&] {
        protecting = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for the service to do what it must not
    };
    auto guard = CopyBeforeWrite::prepare(machine_.memory(), 0, std::move(hooks));
    if (!guard) {
        GTEST_SKIP() << "userfaultfd cannot be used here: " << guard.error().message();
    }
    DirtySet pages(machine_.memory().blocks());
    pages.add(0, kPage);
    ASSERT_OK((*guard)->protect_ahead(pages));
    std::thread guest([&] { machine_.fill(kLow, kPage, 2); });
    wait_for(fault_read, std::chrono::seconds(30));
    ASSERT_TRUE(fault_read);
    ASSERT_OK((*guard)->protect(std::move(pages)));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a writer that can write does so
    ASSERT_OK((*guard)->copy(*job));
    guest.join();
    ASSERT_OK(job->take_state());
    ASSERT_OK(job->finish());
    destination.reset();
    machine_.fill(kLow, kPage, 1);  // as it was at the instant
    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    FakeMachine again(*std::move(restored));
    expect_same_memory(machine_, again);
}

// More writers than a store has room for. Each goes on as soon as the stores change places, which
// is before the full one is on the disk.
TEST_F(Diverging, WritersThatWaitForRoomGoOnWithTheNextStore) {
    constexpr std::uint64_t kUnit = kHugePageSize / kPageSize;
    constexpr std::uint64_t kWriters = 12;
    constexpr std::uint64_t kUnitsOfAStore = 4;
    FakeMachine machine(32ULL << 20);
    DirtySet pages(machine.memory().blocks());
    for (std::uint64_t page = 0; page < kWriters * kUnit; ++page) {
        machine.fill(kLow, page, 1);
        pages.add(0, page);
    }
    std::atomic<std::uint64_t> asked = 0;
    std::atomic<std::uint64_t> written = 0;
    bool copying = false;
    WriteOptions options = live([&](const IoEvent& event) {
        if (event.step == IoStep::pages && std::exchange(copying, false)) {
            EXPECT_TRUE(eventually([&] { return written >= 2 * kUnitsOfAStore; }));
        }
        return io::Fault{};
    });
    auto opened = AreaDestination::open(machine, area(), options);
    ASSERT_OK(opened);
    std::optional<AreaDestination> destination(*std::move(opened));
    auto job = SnapshotJob::open(machine, *destination, options);
    ASSERT_OK(job);
    ASSERT_OK(job->begin());
    CopyHooks hooks;
    hooks.fault_read = [&] { ++asked; };
    auto guard = CopyBeforeWrite::prepare(machine.memory(), 0, std::move(hooks));
    if (!guard) {
        GTEST_SKIP() << "userfaultfd cannot be used here: " << guard.error().message();
    }
    ASSERT_OK((*guard)->protect(std::move(pages)));
    std::vector<std::thread> writers;
    for (std::uint64_t unit = 0; unit < kWriters; ++unit) {
        writers.emplace_back([&, unit] {
            machine.fill(kLow, unit * kUnit + 5, 2);
            ++written;
        });
    }
    EXPECT_TRUE(eventually([&] { return asked == kWriters && written == kUnitsOfAStore; }));
    copying = true;
    EXPECT_TRUE((*guard)->copy(*job).has_value());
    for (std::thread& writer : writers) {
        writer.join();
    }
    EXPECT_FALSE(copying);
    ASSERT_OK(job->take_state());
    ASSERT_OK(job->finish());
    destination.reset();
    for (std::uint64_t unit = 0; unit < kWriters; ++unit) {
        machine.fill(kLow, unit * kUnit + 5, 1);  // as it was at the instant
    }
    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    FakeMachine again(*std::move(restored));
    expect_same_memory(machine, again);
}

// A disk fails while pages are protected. The guest runs on, and no thread stays blocked.
TEST_F(Diverging, AnErrorWhilePagesAreProtectedHoldsNobody) {
    SnapshotMonitor monitor;
    for (const bool called_off : {false, true}) {
        Scribbler guest(machine_);
        WriteOptions options = live([&](const IoEvent& event) {
            if (event.step == IoStep::pages && monitor.phase == SnapshotPhase::draining) {
                if (called_off) {
                    monitor.cancel();
                }
                return io::Fault{called_off ? 0 : EIO, 0};
            }
            if (monitor.phase == SnapshotPhase::copying) {
                guest.await_writes();
            }
            return io::Fault{};
        });
        options.monitor = &monitor;
        options.live.staging_bytes = 0;
        options.live.max_pause = std::chrono::microseconds(1);
        const auto report = write_snapshot(machine_, area(), options);
        if (report && report->when_diverging != "protect") {
            GTEST_SKIP() << "userfaultfd cannot be used here: " << report->when_diverging;
        }
        EXPECT_TRUE(fails(report, called_off ? ErrorKind::cancelled : ErrorKind::system, ""));
        EXPECT_EQ(machine_.frozen, 0);
        EXPECT_FALSE(machine_.dirty()->active());
        const std::uint64_t written = guest.written();
        for (const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
             guest.written() < written + 2000 && std::chrono::steady_clock::now() < until;) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        EXPECT_GE(guest.written(), written + 2000) << "the guest stands still";
    }
}

}  // namespace
}  // namespace snapvm::test
