// SPDX-License-Identifier: Apache-2.0
// Devices as a user asks for them on the command line.
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "tests/kvm/cli_fixture.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

using CliDevices = Cli;

TEST_F(CliDevices, AVsockIsThereWhileItsMachineIs) {
    const std::string socket = scratch_.file("v");
    const auto started = run_ledger("ws=4M", "", {"-d", "--name", "a", "--vsock", "cid=3,socket=" + socket});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    struct stat info{};
    ASSERT_EQ(::stat(socket.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    EXPECT_TRUE(connect_unix(socket).has_value());
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    // Beside the machine that it was taken of, it needs a socket of its own.
    const CommandResult twin = command({"restore", area, "-d", "--name", "b"});
    EXPECT_EQ(twin.exit_code, 1);
    EXPECT_NE(twin.err.find(socket), std::string::npos) << twin.err;
    const std::string other = scratch_.file("w");
    EXPECT_EQ(command({"restore", area, "-d", "--name", "b", "--set", "vsock.socket=" + other}).exit_code, 0);
    EXPECT_TRUE(connect_unix(other).has_value());
    EXPECT_EQ(command({"restore", area, "--set", "vsock.colour=red"}).exit_code, 2);
    for (const char* name : {"a", "b"}) {
        EXPECT_EQ(command({"stop", name, "--force"}).exit_code, 0);
    }
    EXPECT_NE(::stat(socket.c_str(), &info), 0);
    EXPECT_NE(::stat(other.c_str(), &info), 0);
}

TEST_F(CliDevices, AConsoleHasAPlaceForItsOutput) {
    const std::string log = scratch_.file("log");
    const auto started = run_ledger("ws=4M", "", {"-d", "--name", "a", "--console", "file=" + log});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    struct stat info{};
    ASSERT_EQ(::stat(log.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    EXPECT_EQ(command({"restore", area, "-d", "--name", "b"}).exit_code, 0) << "nobody has to listen";
    EXPECT_EQ(command({"restore", area, "-d", "--name", "c", "--console", "file=" + scratch_.file("other")}).exit_code, 0);
    // One without the device has nothing to connect.
    const std::string plain = scratch_.file("plain");
    (void)start("d");
    ASSERT_EQ(command({"snapshot", "d", plain}).exit_code, 0);
    const CommandResult refused = command({"restore", plain, "--console", "stdio"});
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_NE(refused.err.find("no virtio console"), std::string::npos) << refused.err;
}

// Typed to a console that no driver takes anything from.
TEST_F(CliDevices, ASignalEndsAMachineThatReadsNoInput) {
    CommandResult result;
    std::thread foreground(
        [&] { result = run_ledger("ws=4M", "typed", {"--name", "a", "--serial", "none", "--console", "stdio"}); });
    pid_t pid = -1;
    for (const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
         pid <= 0 && std::chrono::steady_clock::now() < limit;) {
        const json machine = json::parse(command({"ps", "--json"}).out, nullptr, false);
        pid = machine.is_object() ? machine.value("pid", -1) : -1;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // time to read its input: sooner, the test would only see less
    if (pid > 0) {
        ::kill(pid, SIGTERM);
    }
    foreground.join();
    EXPECT_EQ(result.exit_code, 0) << result.err;
}

}  // namespace
}  // namespace snapvm::test
