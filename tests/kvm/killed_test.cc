// SPDX-License-Identifier: Apache-2.0
// kill -9 of the VMM at random times of a snapshot. Afterwards the area has the old snapshot or the
// new one, or says that it is incomplete.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <future>

#include "snapshot/report/verify.h"
#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/harness.h"
#include "tests/support/loop_device.h"
#include "vmm/base/fd.h"

namespace snapvm::test {
namespace {

struct KilledCase {
    const char* name;
    bool device;
    std::uint32_t slots;
};

class Killed : public Cli, public testing::WithParamInterface<KilledCase> {
protected:
    // SNAPVM_TEST_POINTS is the number of kills in each case.
    static long points() {
        const char* count = std::getenv("SNAPVM_TEST_POINTS");
        return count != nullptr ? std::atol(count) : 16;
    }
    std::uint64_t random(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
    }

    // Creates the area that is overwritten. On a device it still contains bytes from before it
    // became an area.
    std::string make_target() {
        std::string target = scratch_.file("target");
        const CommandResult size = command({"size", "--mem", "64M", "--cpus", "2", "--slots", slots(), "--json"});
        const std::uint64_t bytes = json::parse(size.out, nullptr, false).value("area_bytes", std::uint64_t{0});
        EXPECT_GT(bytes, 64ULL << 20) << size.out << size.err;
        if (GetParam().device) {
            const UniqueFd fd = need(open_file(target, O_RDWR | O_CREAT, 0600));
            const std::vector<std::byte> stale(bytes, std::byte{0xDD});
            EXPECT_TRUE(write_all_at(fd.get(), stale, 0, target));
            device_ = LoopDevice(target);
            target = device_.path();
        }
        if (!target.empty()) {
            const CommandResult created =
                command({"area", "create", target, "--mem", "64M", "--cpus", "2", "--slots", slots(), "--force"});
            EXPECT_EQ(created.exit_code, 0) << created.err;
        }
        return target;
    }
    [[nodiscard]] std::string slots() const { return std::to_string(GetParam().slots); }

    // Restores a machine under full write load in a process that has had no command yet. Returns
    // its pid.
    pid_t start_victim(const std::string& base, const std::string& name) {
        const char* dirty = random(2) == 0 ? "log" : "ring";
        return json_of({"restore", base, "-d", "--name", name, "--dirty", dirty}).value("pid", 0);
    }

    // Checks that the area's snapshot is whole and returns its id, or an empty text if the area
    // says that it is incomplete.
    static std::string snapshot_in(const AreaPath& path) {
        const auto restored = open_snapshot(path);
        if (!restored) {
            EXPECT_EQ(restored.error().kind(), ErrorKind::incomplete) << restored.error().message();
            return {};
        }
        EXPECT_EQ(check_ledger(restored->memory), "");
        const VerifyReport report = need(verify_area(path));
        EXPECT_EQ(report.fault_count, 0U) << (report.faults.empty() ? "" : report.faults.front());
        return restored->snapshot_id.text();
    }

    static void kill_and_wait(pid_t pid) {
        const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
        ASSERT_TRUE(process.valid());
        ASSERT_EQ(::kill(pid, SIGKILL), 0);
        pollfd gone{process.get(), POLLIN, 0};
        ASSERT_EQ(::poll(&gone, 1, 60'000), 1);
    }

    std::mt19937_64 random_{20261125};
    LoopDevice device_;
};

TEST_P(Killed, AtRandomPointsOfASnapshot) {
    const std::string target = make_target();
    if (target.empty()) {
        GTEST_SKIP() << device_.reason();
    }
    const std::string base = scratch_.file("base");
    ASSERT_EQ(run_ledger("ws=6M rate=0 zero=10 dup=10 stir=8M", "", {"-d", "--name", "first", "--cpus", "2"}).exit_code,
              0);
    ASSERT_EQ(command({"wait", "first", "--for", "ready"}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "first", base, "--then", "stop"}).exit_code, 0);

    const std::vector<std::vector<std::string>> ways = {
        {}, {"--staging", "0"}, {"--mode", "precopy"}, {"--mode", "stop"}, {"--max-pause", "1us", "--staging", "1M"}};
    long incomplete = 0;
    for (long point = 0; point < points() && !HasFailure(); ++point) {
        const std::string name = "v" + std::to_string(point);
        const pid_t pid = start_victim(base, name);
        ASSERT_GT(pid, 0);
        // The area may contain anything that the last kill left.
        std::vector<std::string> whole = {"snapshot", name, target};
        if (random(2) == 0) {
            whole.emplace_back("--track");
        }
        const json first = json_of(whole);
        const std::string old = snapshot_in({target, 0});
        ASSERT_FALSE(old.empty());
        std::vector<std::string> killed = {"snapshot", name, target};
        const auto& way = ways[random(ways.size())];
        killed.insert(killed.end(), way.begin(), way.end());
        SCOPED_TRACE("point " + std::to_string(point) + ", " + (way.empty() ? "live" : way[0] + " " + way[1]));
        // The limit is somewhat longer than the snapshot, because starting the client takes time
        // too.
        const std::uint64_t most = first.value("total_us", std::uint64_t{0}) * 5 / 4 + 5000;
        auto client = std::async(std::launch::async, [&] { return command(killed); });
        std::this_thread::sleep_for(std::chrono::microseconds(random(most)));
        kill_and_wait(pid);
        const bool said_done = client.get().exit_code == 0;
        const std::string now = snapshot_in({target, 0});
        EXPECT_TRUE(!now.empty() || GetParam().slots == 1) << "two slots always have a complete one";
        EXPECT_TRUE(now != old || !said_done) << "a snapshot that was reported is lost";
        incomplete += now.empty() ? 1 : 0;
    }
    RecordProperty("incomplete", static_cast<int>(incomplete));
}

INSTANTIATE_TEST_SUITE_P(Into, Killed,
                         ::testing::Values(KilledCase{"File1", false, 1}, KilledCase{"File2", false, 2},
                                           KilledCase{"Device1", true, 1}, KilledCase{"Device2", true, 2}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace snapvm::test
