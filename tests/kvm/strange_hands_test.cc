// SPDX-License-Identifier: Apache-2.0
// Machines that are started and ended by shells with habits of their own: closed streams, ignored
// signals, size limits, readers that do not read.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/kvm/cli_fixture.h"
#include "tests/support/need.h"
#include "tests/support/paths.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

class StrangeHands : public Cli {
protected:
    void SetUp() override {
        Cli::SetUp();
        if (!IsSkipped() && run_program({"bash", "-c", "python3 -c pass"}).exit_code != 0) {
            GTEST_SKIP() << "bash or python3 is not installed";
        }
    }
    /// Runs a bash script in the scratch folder. In it `snapvm` is the program with the test's run
    /// folder, `ledger` runs a small guest, and `unread` makes a small pipe without a reader.
    CommandResult bash(const std::string& script) {
        const std::string prelude = "program='" + snapvm_program() + "'; options=(--run-dir '" + scratch_.file("run") +
                                    "')\n"
                                    "snapvm() { \"$program\" \"${options[@]}\" \"$@\"; }\n"
                                    "ledger() { snapvm run --kernel builtin:ledger --cmdline \"$@\"; }\n"
                                    "unread() { mkfifo pipe; python3 -c 'import fcntl, os, time\n"
                                    "fd = os.open(\"pipe\", os.O_RDONLY | os.O_NONBLOCK)\n"
                                    "fcntl.fcntl(fd, 1031, 4096)  # F_SETPIPE_SZ\n"
                                    "time.sleep(100)' & reader=$!; }\n"
                                    "cd '" +
                                    scratch_.file("") + "'\n";
        return run_program({"bash", "-c", prelude + script});
    }
    std::string text_of(const std::string& name) {
        std::ifstream file(scratch_.file(name));
        return {std::istreambuf_iterator<char>(file), {}};
    }
};

TEST_F(StrangeHands, ADetachedMachineStartsWithItsStreamsClosed) {
    const CommandResult result = bash("exec <&- >&- 2>&-; ledger 'ws=1M beat=1' -d --name a --timeout 60s");
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(command({"wait", "a", "--for", "ready"}).exit_code, 0);
    const std::string pid = text_of("run/a/lock");
    EXPECT_EQ(pid.find_first_not_of("0123456789"), std::string::npos) << "the output is in the lock: " << pid;
}

TEST_F(StrangeHands, ASignalThatNohupIgnoresStaysIgnored) {
    const CommandResult result = bash(
        "trap '' HUP; ledger 'ws=1M' --name a </dev/null >out 2>err & job=$!\n"
        "until snapvm wait a --for ready >/dev/null 2>&1; do sleep 0.1; done\n"
        "kill -HUP $(cat run/a/lock); sleep 1; snapvm stats a >/dev/null && echo lives; snapvm stop a; wait $job");
    EXPECT_EQ(result.out, "lives\n") << text_of("err");
    EXPECT_EQ(result.exit_code, 0) << text_of("err");
}

TEST_F(StrangeHands, AFileSizeLimitEndsTheLogAndNotTheMachine) {
    const CommandResult result = bash(
        "ulimit -c 0; ulimit -f 1\n"
        "ledger 'ws=1M rate=1000 beat=1 hz=2000' --name a --serial file=log </dev/null >out 2>err & job=$!\n"
        "until [ -e log ] && [ $(stat -c %s log) = 1024 ]; do sleep 0.1; done; sleep 1\n"
        "snapvm stats a >/dev/null && echo lives; snapvm stop a; wait $job");
    EXPECT_EQ(result.out, "lives\n") << text_of("err");
    EXPECT_EQ(result.exit_code, 0) << text_of("err");
    EXPECT_EQ(text_of("log").size(), 1024);
}

TEST_F(StrangeHands, ARootWithoutProcAndNullDeviceIsEnough) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "chroot needs root";
    }
    ASSERT_EQ(bash("mkdir -p jail/dev jail/run && cp $program jail/snapvm").exit_code, 0);
    if (bash("cp -a /dev/kvm jail/dev && : <>jail/dev/kvm").exit_code != 0) {
        GTEST_SKIP() << "device nodes cannot be made and opened here (mknod, nodev)";
    }
    if (bash("chroot jail /snapvm --version").exit_code != 0) {
        GTEST_SKIP() << "this build of snapvm needs shared libraries";
    }
    const CommandResult result = bash(
        "jailed() { chroot jail /snapvm --run-dir /run \"$@\"; }; set -e\n"
        "jailed run --kernel builtin:ledger --cmdline 'ws=4M' --mem 64M --name a -d --timeout 60s >/dev/null\n"
        "jailed wait a --for ready >/dev/null; jailed snapshot a /area >/dev/null; jailed stop a\n"
        "jailed verify /area >/dev/null; echo -n q | jailed restore /area --name b; jailed doctor");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.out.find("LEDGER OK"), std::string::npos) << result.out << result.err;
    EXPECT_NE(result.out.find("unknown of unknown available"), std::string::npos) << result.out;
}

// A guest fills a pipe whose other end is not read. Each way to end the machine ends it.
constexpr const char* kFlood =
    "unread; ledger 'ws=1M rate=1000 beat=1 hz=5000' --name a $LIMIT </dev/null >pipe 2>err & job=$!\n"
    "for i in $(seq 50); do snapvm wait a --for ready >/dev/null 2>&1 && break; sleep 0.1; done; sleep 2\n"
    "$END; wait $job; code=$?; kill $reader; exit $code";

TEST_F(StrangeHands, AMachineWhoseOutputNobodyReadsIsStopped) {
    EXPECT_EQ(bash(std::string("LIMIT=; END='snapvm stop a'\n") + kFlood).exit_code, 0) << text_of("err");
}

TEST_F(StrangeHands, AMachineWhoseOutputNobodyReadsIsStoppedByForce) {
    EXPECT_EQ(bash(std::string("LIMIT=; END='snapvm stop --force a'\n") + kFlood).exit_code, 0) << text_of("err");
}

TEST_F(StrangeHands, AMachineWhoseOutputNobodyReadsEndsAtASignal) {
    EXPECT_EQ(bash(std::string("LIMIT=; END='eval kill $(cat run/a/lock)'\n") + kFlood).exit_code, 0) << text_of("err");
}

TEST_F(StrangeHands, AMachineWhoseOutputNobodyReadsTimesOut) {
    EXPECT_EQ(bash(std::string("LIMIT='--timeout 6s'; END=:\n") + kFlood).exit_code, 124) << text_of("err");
}

TEST_F(StrangeHands, AGuestThatHasEndedWaitsForItsReaderUntilASignal) {
    // The guest ends by itself with its output unread, as under `snapvm run … | less`.
    const CommandResult result = bash(
        "unread; ledger 'ws=1M rate=1000 beat=1 hz=5000' --name a </dev/null >pipe 2>err & job=$!\n"
        "until snapvm wait a --for ready >/dev/null 2>&1; do sleep 0.1; done; sleep 2; pid=$(cat run/a/lock)\n"
        "echo -n u | timeout 5 $program \"${options[@]}\" console a >/dev/null 2>&1\n"
        "until snapvm stats a | grep -q ^exit_code; do sleep 0.1; done\n"
        "kill -0 $pid && echo waits; kill $pid; wait $job; code=$?; kill $reader; exit $code");
    EXPECT_EQ(result.out, "waits\n") << result.err;
    EXPECT_EQ(result.exit_code, 99) << text_of("err");
}

TEST_F(StrangeHands, AnAreaThatIsCutShortUnderItsMachineIsNamed) {
    if (SNAPVM_SANITIZED != 0) {
        GTEST_SKIP() << "a sanitizer handles these signals itself";
    }
    const CommandResult result = bash(
        "ledger 'ws=32M rate=20000' --name a -d >/dev/null && snapvm wait a --for ready >/dev/null &&\n"
        "snapvm snapshot a area >/dev/null && snapvm stop a || exit 50\n"
        "snapvm restore area --name b --timeout 40s </dev/null >/dev/null 2>err & job=$!\n"
        "until snapvm stats b >/dev/null 2>&1; do sleep 0.1; done; : >area; wait $job");
    EXPECT_EQ(result.exit_code, 1) << text_of("err");
    EXPECT_NE(text_of("err").find("the snapshot area cannot be read any more"), std::string::npos) << text_of("err");
}

TEST_F(StrangeHands, AProcessThatIsKilledByItsOwnErrorSaysSo) {
    if (SNAPVM_SANITIZED != 0) {
        GTEST_SKIP() << "a sanitizer handles these signals itself";
    }
    const CommandResult result = bash(
        "ulimit -c 0; ledger 'ws=1M' --name a </dev/null >/dev/null 2>err & job=$!\n"
        "snapvm wait a --for ready >/dev/null; until kill -SEGV $(cat run/a/lock); do sleep 0.1; done; wait $job");
    EXPECT_TRUE(text_of("err").starts_with("snapvm: a: snapvm itself has failed")) << text_of("err");
    EXPECT_EQ(result.exit_code, 1);
}

TEST_F(StrangeHands, TheErrorThatKillsADetachedMachineIsOnRecord) {
    if (SNAPVM_SANITIZED != 0) {
        GTEST_SKIP() << "a sanitizer handles these signals itself";
    }
    const CommandResult result = bash(
        "ulimit -c 0; ledger 'ws=1M' --name a -d >/dev/null; kill -SEGV $(cat run/a/lock)\n"
        "snapvm wait a --for exit; cat run/a/log");
    EXPECT_EQ(result.out.substr(0, 2), "1\n") << result.err;
    EXPECT_NE(result.out.find("snapvm: a: snapvm itself has failed"), std::string::npos) << result.out;
}

TEST_F(StrangeHands, TheSystemsPsShowsWhichMachineAProcessIs) {
    const CommandResult result = bash(
        "ledger 'ws=1M' --name a -d >/dev/null && snapvm snapshot a area --then stop >/dev/null || exit 50\n"
        "snapvm restore area -n 2 --name c >/dev/null 2>&1\n"
        "for i in 0 1; do tr -d '\\0' <\"/proc/$(cat run/c-$i/lock)/cmdline\"; echo; done");
    EXPECT_EQ(result.out, "snapvm: c-0\nsnapvm: c-1\n") << result.err;
}

TEST_F(StrangeHands, ARestoreOfManyThatIsInterruptedLeavesNone) {
    const CommandResult result = bash(
        "ledger 'ws=1M' --name a -d >/dev/null && snapvm snapshot a area --then stop >/dev/null || exit 50\n"
        "$program \"${options[@]}\" restore area -n 5000 --name c >names & job=$!\n"
        "until [ $(wc -l <names) -ge 3 ]; do sleep 0.05; done; kill -TERM $job; wait $job; code=$?\n"
        "snapvm rm a >/dev/null; ls run >left; exit $code");
    EXPECT_EQ(result.exit_code, 128 + SIGTERM) << result.err;
    EXPECT_NE(result.err.find("interrupted: the "), std::string::npos) << result.err;
    EXPECT_TRUE(text_of("names").starts_with("c-0\nc-1\nc-2\n")) << "each name is printed at once";
    EXPECT_TRUE(machines().empty());
    EXPECT_EQ(text_of("left"), "");
}

TEST_F(StrangeHands, AStoppedProcessIsEndedByForce) {
    start("a");
    const pid_t process = std::stoi(text_of("run/a/lock"));
    ASSERT_EQ(::kill(process, SIGSTOP), 0);
    const CommandResult result = command({"stop", "a", "--force"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.err.find("machine a did not answer, and was killed"), std::string::npos) << result.err;
    EXPECT_TRUE(machines().empty());
    EXPECT_NE(command({"stop", "a", "--force"}).exit_code, 0) << "nothing is left to stop";
}

TEST_F(StrangeHands, IdleClientsDoNotLockOutAStop) {
    start("a");
    std::vector<UniqueFd> clients;
    for (int i = 0; i < 40; ++i) {
        clients.push_back(need(connect_unix(scratch_.file("run") + "/a/api.sock")));
        const std::string_view request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        ASSERT_EQ(::write(clients.back().get(), request.data(), request.size()), request.size());
    }
    const CommandResult result = command({"stop", "a", "--force"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "") << "it was not killed";
}

}  // namespace
}  // namespace snapvm::test
