// SPDX-License-Identifier: Apache-2.0
// What a machine creates, replaces and removes on its host.
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "tests/kvm/cli_fixture.h"
#include "tests/support/need.h"
#include "vmm/base/fd.h"

namespace snapvm::test {
namespace {

class CliPlaces : public Cli {
protected:
    json start(const std::string& name, std::vector<std::string> more = {}) {
        more.insert(more.end(), {"-d", "--name", name, "--json"});
        const CommandResult started = run_ledger("ws=4M", "", more);
        EXPECT_EQ(started.exit_code, 0) << started.err;
        return json::parse(started.out, nullptr, false);
    }
    static int pid_of(const json& machine) { return machine.value("pid", -1); }
    // Ends the process without letting it clean up.
    void kill(const json& machine) {
        ASSERT_EQ(::kill(pid_of(machine), SIGKILL), 0);
        ASSERT_TRUE(eventually([&] { return machines().empty(); }));
    }
    [[nodiscard]] std::string text_of(const std::string& name) const {
        return read_file(scratch_.file(name), 1 << 20).value_or("");
    }
};

TEST_F(CliPlaces, AFileAtTheApiSocketStays) {
    const std::string path = scratch_.file("s");
    std::ofstream(path) << "precious";
    const CommandResult refused = run_ledger("ws=4M", "", {"-d", "--name", "a", "--api-socket", path});
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_NE(refused.err.find(path + " exists and is not a socket; move it away, or choose another --api-socket"),
              std::string::npos)
        << refused.err;
    EXPECT_EQ(text_of("s"), "precious");
}

TEST_F(CliPlaces, ALinesFileIsMadeWhereALinkLeads) {
    std::filesystem::create_symlink("there", scratch_.file("link"));
    start("a", {"--serial", "file=" + scratch_.file("link")});
    EXPECT_EQ(command({"stop", "a", "--force"}).exit_code, 0);
    EXPECT_TRUE(std::filesystem::is_regular_file(scratch_.file("there")));
}

TEST_F(CliPlaces, AnApiSocketIsTakenFromADeadMachineOnly) {
    const std::string path = scratch_.file("s");
    const json a = start("a", {"--api-socket", path});
    const CommandResult refused = run_ledger("ws=4M", "", {"-d", "--name", "b", "--api-socket", path});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.err.find(path + " is in use"), std::string::npos) << refused.err;
    EXPECT_EQ(std::filesystem::read_symlink(path).string(), a.value("api_socket", ""));
    kill(a);
    const json c = start("c", {"--api-socket", path});
    EXPECT_EQ(std::filesystem::read_symlink(path).string(), c.value("api_socket", ""));
}

TEST_F(CliPlaces, TheEndLeavesWhatAnotherHasPutAtTheApiSocket) {
    const std::string path = scratch_.file("s");
    (void)start("a", {"--api-socket", path});
    std::filesystem::remove(path);
    std::ofstream(path) << "precious";
    EXPECT_EQ(command({"stop", "a", "--force"}).exit_code, 0);
    EXPECT_EQ(text_of("s"), "precious");
}

TEST_F(CliPlaces, AFileTakesTheOutputOfOneLine) {
    const std::string file = "file=" + scratch_.file("out");
    const json a = start("a", {"--serial", file});
    ASSERT_TRUE(eventually([this] { return text_of("out").starts_with("LEDGER READY\n"); }));
    const std::string before = text_of("out");
    for (const std::vector<std::string>& lines : {std::vector<std::string>{"--serial", file}, {"--console", file}}) {
        std::vector<std::string> more = {"-d", "--name", "b"};
        more.insert(more.end(), lines.begin(), lines.end());
        const CommandResult refused = run_ledger("ws=4M", "", more);
        EXPECT_EQ(refused.exit_code, 1);
        EXPECT_NE(refused.err.find(scratch_.file("out") + " is in use"), std::string::npos) << refused.err;
        EXPECT_TRUE(text_of("out").starts_with(before));
    }
    kill(a);
    std::ofstream(scratch_.file("out")) << std::string(8192, 'x');
    (void)start("b", {"--serial", file});
    EXPECT_TRUE(eventually([this] { return text_of("out").starts_with("LEDGER READY\n"); }));
}

TEST_F(CliPlaces, AMachineWhoseFolderWasRemovedIsFoundAgain) {
    const json a = start("a");
    std::filesystem::remove_all(scratch_.file("run"));
    ASSERT_TRUE(eventually([&] { return command({"stats", "a"}).exit_code == 0; }));
    EXPECT_EQ(machines(), std::vector<std::string>{"a"});
    EXPECT_EQ(json_of({"stats", "a"})["pid"], a["pid"]);
    EXPECT_EQ(command({"stop", "a"}).exit_code, 0);
    EXPECT_TRUE(machines().empty());
}

TEST_F(CliPlaces, TheEndOfAMachineWhoseFolderWasRemovedLeavesTheNextOnesAlone) {
    const json first = start("a");
    std::filesystem::remove_all(scratch_.file("run") + "/a");
    const json next = start("a");
    ASSERT_EQ(::kill(pid_of(first), SIGTERM), 0);
    // A dead process has no command line, also before its parent has asked for its end.
    const std::string words = "/proc/" + std::to_string(pid_of(first)) + "/cmdline";
    ASSERT_TRUE(eventually([&] { return read_file(words, 1 << 20).value_or("").empty(); }));
    EXPECT_EQ(machines(), std::vector<std::string>{"a"});
    EXPECT_EQ(json_of({"stats", "a"})["pid"], next["pid"]);
}

TEST_F(CliPlaces, HowADetachedMachineEndedIsKept) {
    (void)start("a", {"--timeout", "100ms"});
    ASSERT_TRUE(eventually([&] { return machines().empty(); }));
    EXPECT_EQ(command({"wait", "a", "--for", "exit"}).out, "124\n");
    EXPECT_EQ(json_of({"ps", "-a"})["exit_code"], 124);
    (void)start("a");
    EXPECT_EQ(json_of({"ps", "-a"})["state"], "Running");
    EXPECT_EQ(command({"stop", "a", "--force"}).exit_code, 0);
    EXPECT_EQ(json_of({"wait", "a", "--for", "exit"})["outcome"], "stopped");
    EXPECT_EQ(command({"rm", "a"}).exit_code, 0);
    EXPECT_FALSE(std::filesystem::exists(scratch_.file("run") + "/a"));
}

TEST_F(CliPlaces, AnImageIsADiskOnlyIfItIsSaidToBeRaw) {
    const std::string disk = scratch_.file("disk");
    const auto write_magic = [&] { std::ofstream(disk, std::ios::in | std::ios::out) << "QFI\xfb"; };
    std::ofstream(disk).close();
    std::filesystem::resize_file(disk, 1 << 20);
    write_magic();
    const CommandResult refused = run_ledger("ws=4M", "", {"--disk", "id=root,path=" + disk, "--name", "a", "-d"});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.err.find("looks like a qcow2"), std::string::npos) << refused.err;
    (void)start("a", {"--disk", "id=root,path=" + disk + ",format=raw"});
    ASSERT_EQ(command({"stop", "a", "--force"}).exit_code, 0);

    // A guest may write such a number itself.
    std::filesystem::resize_file(disk, 0);
    std::filesystem::resize_file(disk, 1 << 20);
    (void)start("a", {"--disk", "id=root,path=" + disk});
    ASSERT_EQ(command({"wait", "a", "--for", "ready"}).exit_code, 0);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    write_magic();
    const CommandResult restored = command({"restore", area, "--name", "a", "-d"});
    EXPECT_EQ(restored.exit_code, 0) << restored.err;
}

}  // namespace
}  // namespace snapvm::test
