// SPDX-License-Identifier: Apache-2.0
// Devices that a user requests on the command line.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

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
    // The restored machine runs beside the first one, so it needs a socket of its own.
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

TEST_F(CliDevices, ClonesHaveDisksAndSocketsOfTheirOwn) {
    const std::string disk = scratch_.file("disk");
    const auto make_disk = [](const std::string& path, std::uint64_t size) {
        std::ofstream(path).flush();
        std::filesystem::resize_file(path, size);
    };
    make_disk(disk, 1 << 20);
    const auto started = run_ledger(
        "ws=4M", "",
        {"-d", "--name", "a", "--disk", "id=root,path=" + disk, "--vsock", "cid=3,socket=" + scratch_.file("v")});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    const auto restore = [&](std::vector<std::string> settings) {
        settings.insert(settings.begin(), {"restore", area, "-n", "2", "--name", "c{i}x"});
        return command(settings);
    };
    const auto expect_refused = [&](const CommandResult& result, int code, const std::string& says) {
        EXPECT_EQ(result.exit_code, code) << result.err;
        EXPECT_EQ(result.out.find("c1x"), std::string::npos);
        EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
        EXPECT_NE(result.err.find(says), std::string::npos) << result.err;
    };
    const std::string disks = "disk.root.path=" + scratch_.file("disk{i}");
    const std::string sockets = "vsock.socket=" + scratch_.file("v{i}");
    // The refusal comes before the first machine runs.
    const CommandResult plain = restore({});
    expect_refused(plain, 2, "--set 'disk.root.path=COPY{i}'");
    EXPECT_EQ(plain.out, "");
    expect_refused(restore({"--set", sockets, "--set", "disk.root.path=" + scratch_.file("one")}), 2, "they write");
    expect_refused(restore({"--set", disks}), 2, "--set 'vsock.socket=PATH{i}'");
    expect_refused(restore({"--set", "disk.boot.path=x{i}"}), 2, "its disks are root");
    // A disk of another size is not the disk that the guest knows.
    make_disk(scratch_.file("disk0"), 1 << 20);
    make_disk(scratch_.file("disk1"), 2 << 20);
    expect_refused(restore({"--set", disks, "--set", sockets}), 1,
                   "has 4096 sectors, and the saved machine's disk had 2048");
    EXPECT_TRUE(machines().empty()) << "c0x, which ran already";
    make_disk(scratch_.file("disk1"), 1 << 20);
    const CommandResult restored = restore({"--set", disks, "--set", sockets});
    ASSERT_EQ(restored.exit_code, 0) << restored.err;
    EXPECT_EQ(machines(), (std::vector<std::string>{"c0x", "c1x"}));
    for (const char* number : {"0", "1"}) {
        EXPECT_TRUE(connect_unix(scratch_.file("v") + number).has_value()) << number;
        const CommandResult taken =
            run_ledger("ws=4M", "", {"--disk", "id=root,path=" + scratch_.file("disk") + number});
        EXPECT_NE(taken.err.find("another machine has it"), std::string::npos) << taken.err;
    }
    // A single machine is number 0.
    ASSERT_EQ(command({"stop", "c0x", "--force"}).exit_code, 0);
    EXPECT_EQ(command({"restore", area, "-d", "--name", "d{i}", "--set", disks, "--set", sockets}).exit_code, 0);
    EXPECT_EQ(machines(), (std::vector<std::string>{"c1x", "d0"}));
}

TEST_F(CliDevices, ClonesHaveSocketsAndFilesOfTheirOwn) {
    ASSERT_EQ(run_ledger("ws=4M", "", {"-d", "--name", "a"}).exit_code, 0);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    const std::string socket = scratch_.file("api"), output = "file=" + scratch_.file("out");
    for (const auto& [option, value] :
         {std::pair("--api-socket", socket), {"--serial", output}, {"--console", output}}) {
        const CommandResult shared = command({"restore", area, "-n", "2", "--name", "c", option, value});
        EXPECT_EQ(shared.exit_code, 2) << shared.err;
        EXPECT_NE(shared.err.find("2 machines cannot share " + std::string(option)), std::string::npos) << shared.err;
        EXPECT_TRUE(machines().empty());
    }
    const CommandResult own = command(
        {"restore", area, "-n", "2", "--name", "c", "--api-socket", socket + "{i}", "--serial", output + "{i}"});
    ASSERT_EQ(own.exit_code, 0) << own.err;
    for (const char* number : {"0", "1"}) {
        EXPECT_TRUE(connect_unix(socket + number).has_value()) << number;
        EXPECT_TRUE(std::filesystem::exists(scratch_.file("out") + number));
    }
}

TEST_F(CliDevices, ADiskThatNobodyWritesIsShared) {
    const std::string disk = scratch_.file("disk");
    std::ofstream(disk).flush();
    std::filesystem::resize_file(disk, 1 << 20);
    ASSERT_EQ(
        run_ledger("ws=4M", "", {"-d", "--name", "a", "--disk", "id=root,path=" + disk + ",readonly=on"}).exit_code, 0);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    const CommandResult restored = command({"restore", area, "-n", "2", "--name", "c"});
    EXPECT_EQ(restored.exit_code, 0) << restored.err;
    EXPECT_EQ(machines().size(), 3U);
}

TEST_F(CliDevices, ADiskBecomesLargerWhileItsMachineRuns) {
    const std::string disk = scratch_.file("disk");
    std::ofstream(disk).flush();
    std::filesystem::resize_file(disk, 1 << 20);
    const std::string image = scratch_.file("image");
    ASSERT_EQ(command({"disk", "create", image, "--size", "1M"}).exit_code, 0);
    const auto started = run_ledger(
        "ws=4M", "",
        {"-d", "--name", "a", "--disk", "id=root,path=" + disk, "--disk", "id=data,path=" + image + ",format=qcow2"});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    const CommandResult grown = command({"disk", "resize", "a", "root", "2M"});
    EXPECT_EQ(grown.exit_code, 0) << grown.err;
    EXPECT_EQ(grown.out, "a: disk root has 2M now\n");
    EXPECT_EQ(std::filesystem::file_size(disk), 2U << 20);
    EXPECT_EQ(json_of({"disk", "resize", "a", "data", "3M"})["size"], 3 << 20);
    EXPECT_EQ(json_of({"disk", "info", image})["size"], 3 << 20);
    for (const auto& [words, says] : {std::pair(std::vector<std::string>{"root", "1M"}, "cannot shrink"),
                                      {{"data", "1000"}, "cannot have 1000 bytes"},
                                      {{"boot", "4M"}, "no disk boot; its disks are root, data"},
                                      {{"root", "device"}, "needs a new size"}}) {
        const CommandResult refused = command({"disk", "resize", "a", words[0], words[1]});
        EXPECT_EQ(refused.exit_code, 1) << says;
        EXPECT_NE(refused.err.find(says), std::string::npos) << refused.err;
    }
    // The snapshot is of the larger disks, and is restored with them.
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    const CommandResult restored = command({"restore", area, "-d", "--name", "b"});
    EXPECT_EQ(restored.exit_code, 0) << restored.err;
    EXPECT_EQ(command({"disk", "resize", "b", "data", "4M"}).out, "b: disk data has 4M now\n");
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
    EXPECT_EQ(command({"restore", area, "-d", "--name", "c", "--console", "file=" + scratch_.file("other")}).exit_code,
              0);
    // A machine without the device has no console to connect.
    const std::string plain = scratch_.file("plain");
    (void)start("d");
    ASSERT_EQ(command({"snapshot", "d", plain}).exit_code, 0);
    const CommandResult refused = command({"restore", plain, "--console", "stdio"});
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_NE(refused.err.find("no virtio console"), std::string::npos) << refused.err;
}

// The input goes to a console that no driver reads.
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
    // time for the machine to read its input; with less the test would see less
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (pid > 0) {
        ::kill(pid, SIGTERM);
    }
    foreground.join();
    EXPECT_EQ(result.exit_code, 0) << result.err;
}

}  // namespace
}  // namespace snapvm::test
