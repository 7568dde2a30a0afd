// SPDX-License-Identifier: Apache-2.0
// End to end, as a user: the binary is used with pipes and in the background.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/harness.h"
#include "tests/support/paths.h"
#include "vmm/machine/clock_state.h"

namespace snapvm::test {
namespace {

TEST_F(Cli, SerialPortIsOnStdinAndStdoutAndNothingElse) {
    const CommandResult result = run_ledger("ws=1M rate=100", "q");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(result.out.starts_with("LEDGER READY\n")) << result.out;
    EXPECT_NE(result.out.find("LEDGER OK"), std::string::npos) << result.out;
    EXPECT_EQ(result.err, "");
}

TEST_F(Cli, ExitCodes) {
    EXPECT_EQ(run_ledger("ws=1M", "o").exit_code, 0);   // power-off
    EXPECT_EQ(run_ledger("ws=1M", "r").exit_code, 0);   // reboot
    EXPECT_EQ(run_ledger("ws=1M", "e").exit_code, 33);  // 0x10 to port 0xF4
    EXPECT_EQ(run_ledger("ws=1M", "u").exit_code, 99);  // the guest's own
    const CommandResult triple = run_ledger("ws=1M", "t");
    EXPECT_EQ(triple.exit_code, 4);
    EXPECT_NE(triple.err.find("triple fault"), std::string::npos) << triple.err;
    EXPECT_EQ(run_ledger("ws=1M", "", {"--timeout", "300ms"}).exit_code, 124);
}

TEST_F(Cli, StopTakesNamesAndPatterns) {
    for (const char* name : {"a-1", "a-10", "a-2", "b", "c"}) {
        start(name);
    }
    EXPECT_EQ(machines(), (std::vector<std::string>{"a-1", "a-2", "a-10", "b", "c"})) << "in natural order";
    EXPECT_EQ(command({"stop"}).exit_code, 2);
    EXPECT_EQ(command({"stop", "b", "--all"}).exit_code, 2);
    EXPECT_EQ(command({"stop", "e*"}).exit_code, 1);
    EXPECT_EQ(machines().size(), 5U) << "nothing was stopped";
    const CommandResult stopped = command({"stop", "a-*", "nobody", "a-1", "b", "--json"});
    EXPECT_EQ(stopped.exit_code, 1);
    EXPECT_NE(stopped.err.find("no machine nobody runs"), std::string::npos) << stopped.err;
    EXPECT_EQ(std::ranges::count(stopped.out, '\n'), 4) << "the others are stopped: " << stopped.out;
    EXPECT_EQ(json::parse(stopped.out.substr(0, stopped.out.find('\n')))["name"], "a-1");
    EXPECT_EQ(machines(), std::vector<std::string>{"c"});
    EXPECT_EQ(command({"stop", "--all"}).exit_code, 0);
    EXPECT_TRUE(machines().empty());
}

TEST_F(Cli, ABackgroundMachineIsSnapshottedStoppedAndRestored) {
    const json started = start("a");
    ASSERT_EQ(started.value("name", ""), "a");
    EXPECT_EQ(command({"wait", "a", "--for", "ready"}).exit_code, 0);
    EXPECT_EQ(machines(), std::vector<std::string>{"a"});

    const std::string area = scratch_.file("area");
    const CommandResult snapshot = command({"snapshot", "a", area, "--json"});
    ASSERT_EQ(snapshot.exit_code, 0) << snapshot.err;
    const json report = json::parse(snapshot.out, nullptr, false);
    EXPECT_GE(report["pages"].value("common", 0), 1024);  // 4 MiB of ledger
    for (const char* field : {"pause_us", "total_us", "rounds", "area_bytes", "written_bytes", "staging_peak_bytes",
                              "tracker", "type", "diverged"}) {
        EXPECT_TRUE(report.contains(field)) << field;
    }
    EXPECT_EQ(command({"pause", "a"}).exit_code, 0);
    EXPECT_EQ(command({"resume", "a"}).exit_code, 0);
    EXPECT_EQ(command({"stop", "a"}).exit_code, 0);
    EXPECT_TRUE(machines().empty());

    EXPECT_EQ(command({"verify", area}).exit_code, 0);
    const CommandResult restored = command({"restore", area}, "q");
    EXPECT_EQ(restored.exit_code, 0) << restored.err;
    EXPECT_NE(restored.out.find("LEDGER OK"), std::string::npos) << restored.out;
}

TEST_F(Cli, AreaForARunningMachineFitsIt) {
    start("a");
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"area", "create", area, "--for", "a"}).exit_code, 0);
    EXPECT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    const std::string small = scratch_.file("small");
    ASSERT_EQ(command({"area", "create", small, "--mem", "32M"}).exit_code, 0);
    const CommandResult refused = command({"snapshot", "a", small});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_EQ(command({"stats", "a"}).exit_code, 0);  // the machine still runs
}

// By the clocks in the snapshots, kvmclock has gone on by no more than the time that the machine
// ran, or by the time in between too.
TEST_F(Cli, TheClockResumesOrContinues) {
    constexpr std::chrono::nanoseconds kGap = 1s;
    const auto clock_in = [](const std::string& area) {
        const std::vector<StateRecord> records = need(open_snapshot({area, 0})).saved.records;
        return std::chrono::nanoseconds(
            need(decode_clock(*std::ranges::find(records, RecordKind::clock, &StateRecord::kind))).clock);
    };
    start("a");
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    std::this_thread::sleep_for(kGap);
    for (const std::string clock : {"resume", "continue"}) {
        const SteadyClock::time_point start = SteadyClock::now();
        const CommandResult restored = command({"restore", area, "-d", "--name", clock, "--clock", clock, "--json"});
        ASSERT_EQ(restored.exit_code, 0) << restored.err;
        const std::string tsc = json::parse(restored.out).value("tsc", "");
        EXPECT_TRUE(tsc == "set" || tsc == "host") << restored.out;
        const std::string later = scratch_.file(clock);
        ASSERT_EQ(command({"snapshot", clock, later, "--then", "stop"}).exit_code, 0);
        const auto went_on = clock_in(later) - clock_in(area);
        EXPECT_GT(went_on, 0s);
        if (clock == "resume") {
            EXPECT_LE(went_on, SteadyClock::now() - start);
        } else {
            EXPECT_GE(went_on, kGap);
        }
    }
}

TEST_F(Cli, RestoresManyAtOnce) {
    start("a");
    ASSERT_EQ(command({"wait", "a", "--for", "ready"}).exit_code, 0);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    const CommandResult many = command({"restore", area, "-n", "3", "--name", "c", "--json"});
    ASSERT_EQ(many.exit_code, 0) << many.err;
    std::istringstream lines(many.out);
    std::string line;
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(std::getline(lines, line));
        EXPECT_EQ(json::parse(line).value("name", ""), "c-" + std::to_string(i));
        EXPECT_GT(json::parse(line).value("total_us", 0), 0);
    }
    ASSERT_TRUE(std::getline(lines, line));
    EXPECT_EQ(json::parse(line).value("n", 0), 3);
    EXPECT_EQ(machines().size(), 3U);
    // While machines map the area, no other machine may write into it.
    start("b");
    const CommandResult refused = command({"snapshot", "b", area});
    EXPECT_EQ(refused.exit_code, 1) << refused.out;
    EXPECT_NE(refused.err.find("c-"), std::string::npos) << "does not say who maps it: " << refused.err;
    EXPECT_NE(command({"area", "create", area, "--for", "b", "--force"}).err.find("c-"), std::string::npos);
    // The area is free once they are detached.
    for (int i = 0; i < 3; ++i) {
        const CommandResult detached = command({"detach", "c-" + std::to_string(i), "--json"});
        ASSERT_EQ(detached.exit_code, 0) << detached.err;
        EXPECT_TRUE(json::parse(detached.out).value("mapped", false));
    }
    EXPECT_EQ(command({"snapshot", "b", area}).exit_code, 0);
    EXPECT_EQ(command({"snapshot", "c-0", area}).exit_code, 0);
    const CommandResult back = command({"restore", area}, "q");
    EXPECT_NE(back.out.find("LEDGER OK"), std::string::npos) << back.out << back.err;
}

TEST_F(Cli, StatsTellTheClassesOfTheLastSnapshot) {
    const CommandResult started = run_ledger("ws=8M rate=0 zero=10 dup=50", "", {"-d", "--name", "a"});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    ASSERT_EQ(command({"wait", "a", "--for", "ready"}).exit_code, 0);
    EXPECT_FALSE(json::parse(command({"stats", "a", "--json"}).out).contains("snapshot"));
    const CommandResult snapshot = command({"snapshot", "a", scratch_.file("area"), "--json"});
    ASSERT_EQ(snapshot.exit_code, 0) << snapshot.err;
    const json report = json::parse(snapshot.out);
    EXPECT_GT(report["pages"].value("shared", 0), 900);
    EXPECT_EQ(json::parse(command({"stats", "a", "--json"}).out)["snapshot"], report);
    const std::string text = command({"stats", "a"}).out;
    EXPECT_NE(text.find("snapshot.pages.shared "), std::string::npos) << text;
    EXPECT_NE(text.find("snapshot.rounds "), std::string::npos) << text;
}

TEST_F(Cli, SharesOneCopyOfPagesThatAreTheSame) {
    const CommandResult started = run_ledger("ws=8M rate=0 zero=10 dup=50", "", {"-d", "--name", "a"});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    ASSERT_EQ(command({"wait", "a", "--for", "ready"}).exit_code, 0);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);

    const CommandResult one = command({"restore", area, "--share", "--json"}, "q");
    EXPECT_EQ(one.exit_code, 0) << one.err;
    EXPECT_NE(one.out.find("LEDGER OK"), std::string::npos) << one.out;
    // Of each 100 pages of the working set 10 are zero and 50 identical. The identical pages of the
    // first 100 are those onto which the others are mapped.
    const json here = json::parse(one.err);
    EXPECT_EQ(here.value("shared_runs", 0), 20) << one.err;
    EXPECT_EQ(here.value("shared_pages", 0), 19 * 50 + 38) << one.err;
    const CommandResult many = command({"restore", area, "--share", "-n", "2", "--name", "c", "--json"});
    ASSERT_EQ(many.exit_code, 0) << many.err;
    EXPECT_EQ(json::parse(many.out.substr(0, many.out.find('\n')))["shared_pages"], here["shared_pages"]);
    EXPECT_FALSE(json::parse(command({"restore", area, "-d", "--name", "p", "--json"}).out).contains("shared_runs"));
    // Both a snapshot of one of them, and a detached one's own memory, must have the same contents.
    const std::string next = scratch_.file("next");
    ASSERT_EQ(command({"snapshot", "c-0", next}).exit_code, 0);
    EXPECT_EQ(command({"verify", next}).exit_code, 0);
    EXPECT_NE(command({"restore", next, "--share"}, "q").out.find("LEDGER OK"), std::string::npos);
    ASSERT_EQ(command({"detach", "c-1"}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "c-1", next, "--then", "stop"}).exit_code, 0);
    EXPECT_NE(command({"restore", next}, "q").out.find("LEDGER OK"), std::string::npos);
}

TEST_F(Cli, ADamagedOlderSnapshotIsWarnedOf) {
    start("a");
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"area", "create", area, "--for", "a", "--slots", "2"}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    EXPECT_EQ(command({"restore", area, "-d", "--name", "whole"}).err, "");
    {
        std::fstream file(area, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(520);  // the table of superblock 0, whose snapshot is the first
        file.put('\x7F');
    }
    const std::string said = "superblock 0 has a section table with a wrong checksum: snapshot ";
    const CommandResult restored = command({"restore", area, "-d", "--name", "b"});
    EXPECT_EQ(restored.exit_code, 0) << restored.err;
    EXPECT_NE(restored.err.find("snapvm: warning: " + area), std::string::npos) << restored.err;
    EXPECT_NE(restored.err.find(said), std::string::npos) << restored.err;
    const CommandResult inspected = command({"inspect", area});
    EXPECT_EQ(inspected.exit_code, 0);
    EXPECT_NE(inspected.out.find(said), std::string::npos) << inspected.out;
    EXPECT_NE(command({"verify", area}).out.find("superblock 0 has a section table"), std::string::npos);
    const CommandResult again = command({"snapshot", "a", area});
    EXPECT_EQ(again.exit_code, 0) << again.err;
    EXPECT_NE(again.err.find(said), std::string::npos) << again.err;
    EXPECT_EQ(command({"verify", area}).exit_code, 0);
}

TEST_F(Cli, RestoresAllOrNone) {
    start("a");
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    start("c-2");
    const CommandResult many = command({"restore", area, "-n", "3", "--name", "c"});
    EXPECT_EQ(many.exit_code, 1) << many.out;
    EXPECT_NE(many.err.find("c-2 runs already"), std::string::npos) << many.err;
    EXPECT_EQ(machines(), std::vector<std::string>{"c-2"});
}

// One attempt proves little: the process ends some milliseconds after the machine.
// CliAnsweringMachine tests the commands with a process that is slower.
TEST_F(Cli, AMachineThatACommandHasSeenEndIsGone) {
    for (int i = 0; i < 10; ++i) {
        start("a");
        ASSERT_EQ(command({"snapshot", "a", scratch_.file("area"), "--then", "stop"}).exit_code, 0);
        ASSERT_TRUE(machines().empty()) << "snapshot " << i;
    }
}

TEST_F(Cli, ANameInUseIsRefusedAndFreeAgainAfterAKill) {
    const json first = start("a");
    const CommandResult second = run_ledger("ws=1M", "", {"-d", "--name", "a"});
    EXPECT_EQ(second.exit_code, 1);
    EXPECT_NE(second.err.find("runs already"), std::string::npos) << second.err;
    ASSERT_EQ(::kill(first.value("pid", -1), SIGKILL), 0);
    for (int i = 0; i < 100 && !machines().empty(); ++i) {
        ::usleep(10'000);
    }
    EXPECT_TRUE(machines().empty());
    start("a");
    EXPECT_EQ(machines(), std::vector<std::string>{"a"});
}

TEST_F(Cli, WhatIsNoAreaIsNotRestored) {
    std::ofstream(scratch_.file("empty")).flush();
    std::ofstream(scratch_.file("text")) << "this is no area\n";
    ASSERT_EQ(command({"area", "create", scratch_.file("new"), "--mem", "64M"}).exit_code, 0);
    for (const std::string& area : {scratch_.file("missing"), scratch_.path(), scratch_.file("empty"),
                                    scratch_.file("text"), scratch_.file("new")}) {
        const CommandResult result = command({"restore", area});
        EXPECT_EQ(result.exit_code, 1) << result.err;
        EXPECT_EQ(result.out, "") << area;
        EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
        EXPECT_NE(result.err.find(area), std::string::npos) << result.err;
    }
    EXPECT_EQ(machines(), std::vector<std::string>{});
}

TEST_F(Cli, ADetachedMachineThatCannotStartSaysWhy) {
    std::filesystem::create_directories(scratch_.file("run"));
    const CommandResult result = command({"run", "--kernel", scratch_.file("missing"), "-d"});
    EXPECT_EQ(result.exit_code, 1);
    const CommandResult tight = command({"run", "--kernel", "builtin:ledger", "--mem", "2M", "--boot", "linux64",
                                         "--cmdline", "ws=1M", "--initrd", snapvm_program(), "-d"});
    EXPECT_EQ(tight.exit_code, 2) << tight.err;
    EXPECT_NE(tight.err.find("do not fit"), std::string::npos) << tight.err;
    EXPECT_TRUE(machines().empty());
}

TEST_F(Cli, DemoVerifiesEverything) {
    const CommandResult result = snapvm_command({"demo", "--mem", "64M", "--ws", "8M", "--json"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json demo = json::parse(result.out, nullptr, false);
    EXPECT_NE(demo.value("ledger_after", "").find("LEDGER OK"), std::string::npos) << result.out;
    EXPECT_EQ(demo.value("verified_pages", 0), 64 * 256 + 16 + 1);
}

}  // namespace
}  // namespace snapvm::test
