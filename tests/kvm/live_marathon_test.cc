// SPDX-License-Identifier: Apache-2.0
// All kinds of snapshots, one after the other into the same areas, at random moments of a guest
// under full write load.
#include <array>
#include <cstdlib>
#include <string>
#include <thread>

#include "snapshot/report/verify.h"
#include "snapshot/write/history.h"
#include "tests/kvm/harness.h"
#include "vmm/control/machine_source.h"

namespace snapvm::test {
namespace {

struct MarathonCase {
    const char* name;
    DirtyTracking dirty;
    std::uint32_t cpus;
    const char* cmdline;
};

class LiveMarathon : public KvmTest, public ::testing::WithParamInterface<MarathonCase> {
protected:
    // SNAPVM_TEST_MOMENTS is the number of snapshots in each case.
    static long moments() {
        const char* count = std::getenv("SNAPVM_TEST_MOMENTS");
        return count != nullptr ? std::atol(count) : 4;
    }
    template <class T, std::size_t N>
    T one_of(const std::array<T, N>& choices) {
        return choices[random(N)];
    }

    /// Returns random options that a user may choose, and names them in `said`.
    WriteOptions any_options(std::string& said) {
        WriteOptions options;
        options.mode = one_of(std::array{SnapshotMode::live, SnapshotMode::live, SnapshotMode::live,
                                         SnapshotMode::precopy, SnapshotMode::stop});
        options.cache = one_of(std::array{CachePolicy::automatic, CachePolicy::cached, CachePolicy::direct});
        options.engine = one_of(std::array{io::EngineKind::uring, io::EngineKind::threads});
        options.live.staging_bytes =
            one_of(std::array<std::optional<std::uint64_t>, 4>{std::nullopt, 0, 1ULL << 20, 6ULL << 20});
        options.live.max_pause = one_of(std::array<std::chrono::microseconds, 3>{1000us, 1000us, 1us});
        options.live.when_diverging =
            one_of(std::array{WhenDiverging::protect, WhenDiverging::throttle, WhenDiverging::stop});
        options.track = random(3) != 0;
        const bool slow = random(2) == 0;
        options.hook = [slow, bytes = std::uint64_t{0}](const IoEvent& event) mutable {
            // The limit is 256 MB a second, for single pages and large runs alike.
            for (bytes += slow && event.step == IoStep::pages ? event.size : 0; bytes >= 256U << 10;
                 bytes -= 256U << 10) {
                std::this_thread::sleep_for(1ms);
            }
            return io::Fault{};
        };
        said = "mode " + std::to_string(static_cast<int>(options.mode)) + ", staging " +
               (options.live.staging_bytes ? std::to_string(*options.live.staging_bytes) : "as it comes") + ", pause " +
               std::to_string(options.live.max_pause.count()) + " us, " +
               std::string(name_of(options.live.when_diverging)) + (options.track ? ", tracked" : "") +
               (slow ? ", slow disk" : "") + (options.engine == io::EngineKind::uring ? ", io_uring" : ", threads");
        return options;
    }
    // Cancels one snapshot in six at a random write. The snapshot must end as cancelled, or have
    // been complete before.
    bool called_off(Machine& machine, const AreaPath& path, WriteOptions options) {
        SnapshotMonitor monitor;
        options.monitor = &monitor;
        options.hook = [&, inner = options.hook, left = random(40)](const IoEvent& event) mutable {
            if (left-- == 0) {
                monitor.cancel();
            }
            return inner(event);
        };
        MachineSnapshotSource source(machine);
        const auto report = write_snapshot(source, path, options);
        EXPECT_TRUE(report || report.error().kind() == ErrorKind::cancelled) << report.error().message();
        EXPECT_EQ(machine.state(), Machine::State::running);
        return !report.has_value();
    }
};

TEST_P(LiveMarathon, EachIsWholeHoweverItIsMade) {
    const MarathonCase& c = GetParam();
    const kvm::Capabilities& caps = system().capabilities();
    if (c.dirty == DirtyTracking::ring ? caps.dirty_ring == 0 : caps.manual_dirty_log == 0) {
        GTEST_SKIP() << "this KVM has no dirty " << (c.dirty == DirtyTracking::ring ? "ring" : "log");
    }
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = c.cpus, .cmdline = c.cmdline, .host = {.dirty = c.dirty}});
    SnapshotHistory history;
    for (long moment = 0; moment < moments(); ++moment) {
        run_a_while(20ms);
        std::string said;
        WriteOptions options = any_options(said);
        options.history = &history;
        options.slots = 1 + static_cast<std::uint32_t>(random(2));
        const AreaPath path = area("slots" + std::to_string(options.slots));
        SCOPED_TRACE("moment " + std::to_string(moment) + ": " + std::to_string(options.slots) + " slots, " + said);
        if (random(6) == 0 && called_off(*machine, path, options)) {
            continue;
        }
        const SnapshotReport report = snapshot(*machine, path, options);
        SCOPED_TRACE(report.type + (report.diverged ? ", diverged: " + report.when_diverging : std::string()));
        EXPECT_EQ(check_ledger(need(open_snapshot(path)).memory), "");
        const VerifyReport checked = need(verify_area(path));
        EXPECT_EQ(checked.fault_count, 0U) << checked.faults.front();
        if (random(4) == 0) {
            const std::unique_ptr<Machine> restored = restore(path, {.dirty = c.dirty});
            need(restored->resume());
            const LedgerLine line = verify_ledger(*restored);
            EXPECT_TRUE(line.ok) << line.text;
            // The machine maps the area it came from, so it writes into a new one while it runs.
            (void)snapshot(*restored, area("second"));
            EXPECT_EQ(check_ledger(need(open_snapshot(area("second"))).memory), "");
        }
        ASSERT_FALSE(HasFailure());
    }
    history.clear();
    expect_sound_end(*machine);
}

constexpr const char* kStirred = "ws=2M rate=0 seen=1 zero=10 dup=10 stir=16M";
constexpr const char* kHot = "ws=8M rate=0 seen=1 pattern=hot zero=5 dup=20";
constexpr const char* kRandom = "ws=12M rate=3000 seen=1 pattern=random";

INSTANTIATE_TEST_SUITE_P(Cases, LiveMarathon,
                         ::testing::Values(MarathonCase{"Log1", DirtyTracking::log, 1, kStirred},
                                           MarathonCase{"Log2", DirtyTracking::log, 2, kHot},
                                           MarathonCase{"Log3", DirtyTracking::log, 3, kRandom},
                                           MarathonCase{"Log4", DirtyTracking::log, 4, kStirred},
                                           MarathonCase{"Ring1", DirtyTracking::ring, 1, kHot},
                                           MarathonCase{"Ring2", DirtyTracking::ring, 2, kStirred},
                                           MarathonCase{"Ring3", DirtyTracking::ring, 3, kRandom},
                                           MarathonCase{"Ring4", DirtyTracking::ring, 4, kHot}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace snapvm::test
