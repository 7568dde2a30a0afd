// SPDX-License-Identifier: Apache-2.0
// A snapshot is untrusted, and so are the paths in it.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/kvm/cli_fixture.h"
#include "tests/support/forged_area.h"
#include "tests/support/need.h"
#include "tests/support/paths.h"
#include "tests/support/scoped_variable.h"
#include "tests/support/traced_program.h"
#include "vmm/api/client.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

namespace fs = std::filesystem;

class Trust : public Cli {
protected:
    std::string make_file(const std::string& name) {
        const std::string path = scratch_.file(name);
        std::ofstream(path).flush();
        fs::resize_file(path, 1 << 20);
        return path;
    }
    /// Takes a snapshot of a machine with a disk, a read-only one and a vsock, and stops it.
    std::string make_snapshot() {
        const auto started = run_ledger(
            "ws=4M", "",
            {"-d", "--name", "source", "--disk", "id=root,path=" + make_file("disk"), "--disk",
             "id=seed,path=" + make_file("seed") + ",readonly=on", "--vsock", "cid=3,socket=" + scratch_.file("v")});
        EXPECT_EQ(started.exit_code, 0) << started.err;
        const CommandResult taken = command({"snapshot", "source", scratch_.file("area"), "--then", "stop"});
        EXPECT_EQ(taken.exit_code, 0) << taken.err;
        EXPECT_EQ(taken.err, "");
        return scratch_.file("area");
    }
    CommandResult restore(const std::string& area, std::vector<std::string> more = {}) {
        more.insert(more.begin(), {"restore", area, "-d", "--name", "r"});
        return command(more);
    }
    void expect_restored(const CommandResult& result) {
        EXPECT_EQ(result.exit_code, 0) << result.err;
        EXPECT_EQ(command({"stop", "r", "--force"}).exit_code, 0);
    }
    void expect_refused(const CommandResult& result, const std::string& says, int code = 2) {
        EXPECT_EQ(result.exit_code, code) << result.err;
        EXPECT_NE(result.err.find(says), std::string::npos) << result.err;
        EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
        EXPECT_TRUE(machines().empty());
    }
};

TEST_F(Trust, ASnapshotThatTheUserTookIsRestoredByItsRecord) {
    const std::string area = make_snapshot();
    expect_restored(restore(area));
    // The file keeps its record under another name.
    fs::rename(area, scratch_.file("renamed"));
    expect_restored(restore(scratch_.file("renamed")));
    // A restored machine's snapshot has a record of what that machine uses.
    ASSERT_EQ(restore(scratch_.file("renamed"), {"--set", "disk.root.path=" + make_file("other")}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "r", scratch_.file("next"), "--then", "stop"}).exit_code, 0);
    fs::remove(scratch_.file("disk"));
    expect_restored(restore(scratch_.file("next")));
}

TEST_F(Trust, ACopyAndAnotherUserNameWhatTheyUse) {
    const std::string area = make_snapshot();
    const std::string copy = scratch_.file("copy");
    fs::copy_file(area, copy);
    const std::string words = "--set disk.root.path=" + scratch_.file("disk") +
                              " --set disk.seed.path=" + scratch_.file("seed") +
                              " --set vsock.socket=" + scratch_.file("v") + ";";
    expect_refused(restore(copy), words);
    expect_refused(restore(copy), "--trust-paths");
    expect_refused(restore(copy, {"--set", "disk.root.path=" + scratch_.file("disk")}),
                   "--set disk.seed.path=" + scratch_.file("seed") + " --set vsock.socket=");
    expect_restored(
        restore(copy, {"--set", "disk.root.path=" + scratch_.file("disk"), "--set",
                       "disk.seed.path=" + scratch_.file("seed"), "--set", "vsock.socket=" + scratch_.file("v")}));
    expect_restored(restore(copy, {"--trust-paths"}));
    const ScopedVariable other("XDG_STATE_HOME", scratch_.file("other-home").c_str());
    expect_refused(restore(area), words);
}

TEST_F(Trust, ClonesToo) {
    const std::string area = make_snapshot();
    const std::vector<std::string> own = {"restore", area,
                                          "-n",      "2",
                                          "--name",  "r",
                                          "--set",   "disk.root.path=" + scratch_.file("disk{i}"),
                                          "--set",   "vsock.socket=" + scratch_.file("v{i}")};
    make_file("disk0");
    make_file("disk1");
    EXPECT_EQ(command(own).exit_code, 0) << "the read-only disk is by the record";
    EXPECT_EQ(machines().size(), 2U);
    for (const std::string& name : machines()) {
        EXPECT_EQ(command({"stop", name, "--force"}).exit_code, 0);
    }
    const ScopedVariable other("XDG_STATE_HOME", scratch_.file("other-home").c_str());
    expect_refused(command(own), "--set disk.seed.path=" + scratch_.file("seed") + ";");
}

// The record holds the resources, so an area that has a known id and names others gets none.
TEST_F(Trust, AForgedSnapshotOpensNothing) {
    const std::string area = make_snapshot();
    const std::string secret = make_file("secret");
    ASSERT_EQ(::chmod(secret.c_str(), 0600), 0);
    const std::string socket = scratch_.file("live");
    const Listener live = need(Listener::open(socket, "another path"));
    const auto name_others = [&](MachineConfig& config) {
        config.devices.disks[0].path = secret;
        config.devices.vsock->socket = socket;
    };
    const std::string elsewhere = scratch_.file("elsewhere");
    forge_area({area, 0}, {elsewhere, 0}, name_others);
    forge_area({area, 0}, {area, 0}, name_others);
    for (const std::string& forged : {area, elsewhere}) {
        if (SNAPVM_SANITIZED == 0) {  // whose search for leaks needs ptrace itself
            TracedProgram program({snapvm_program(), "restore", forged, "--run-dir", scratch_.file("run")},
                                  scratch_.file("output"));
            EXPECT_EQ(program.wait(), 2);
            for (const PathCall& call : program.calls()) {
                EXPECT_FALSE(call.path.ends_with("/secret") || call.path.ends_with("/live")) << call.call;
            }
        }
        expect_refused(restore(forged), "--set disk.root.path=" + secret);
        EXPECT_TRUE(connect_unix(socket).has_value());
    }
}

TEST_F(Trust, AReadOnlyDiskNeverBecomesWritable) {
    const std::string area = make_snapshot();
    forge_area({area, 0}, {area, 0}, [](MachineConfig& config) { config.devices.disks[1].read_only = false; });
    const std::string says = "says that disk seed is written, but it was read-only";
    expect_refused(restore(area), says, 1);
    expect_refused(restore(area, {"--set", "disk.seed.path=" + scratch_.file("seed")}), says, 1);
    expect_refused(restore(area, {"--trust-paths"}), says, 1);
}

TEST_F(Trust, TheApiIsAsStrict) {
    const std::string area = make_snapshot();
    const std::string copy = scratch_.file("copy");
    fs::copy_file(area, copy);
    for (const bool trusted : {false, true}) {
        ASSERT_EQ(command({"run", "--name", "r", "-d"}).exit_code, 0);
        auto client = need(api::ApiClient::connect(scratch_.file("run") + "/r/api.sock"));
        const auto load = [&](json body) {
            return need(client.request("PUT", "/snapshot/load", body.dump(), kPatience));
        };
        const api::ApiReply refused = load({{"snapshot_path", copy}});
        EXPECT_EQ(refused.status, 400U);
        EXPECT_NE(refused.fault().find("--set disk.root.path="), std::string::npos) << refused.body;
        EXPECT_EQ(
            load(trusted ? json{{"snapshot_path", copy}, {"trust_paths", true}} : json{{"snapshot_path", area}}).status,
            204U);
        EXPECT_EQ(command({"stop", "r", "--force"}).exit_code, 0);
    }
}

TEST_F(Trust, ADiskThatIsGoneIsNotMadeAnew) {
    const std::string area = make_snapshot();
    fs::remove(scratch_.file("disk"));
    const CommandResult refused = restore(area);
    expect_refused(refused, "bring the file back, or give a copy of it: --set disk.root.path=FILE", 1);
    EXPECT_EQ(refused.err.find("truncate"), std::string::npos) << refused.err;
}

TEST_F(Trust, AMachineHasNoMoreMemoryThanItMay) {
    const std::string area = make_snapshot();
    const std::string huge = scratch_.file("huge");
    forge_area({area, 0}, {huge, 0}, [](MachineConfig& config) { config.memory_bytes = 1000ULL << 30; });
    expect_refused(restore(huge, {"--trust-paths"}), "is of a machine with 1000G of memory, and the most is ", 1);
    expect_refused(restore(area, {"--max-mem", "62M"}),
                   "the most is 62M (by default what the host has); if you expect that, give --max-mem 64M", 1);
    expect_refused(restore(area, {"--max-mem", "much"}), "much");
    expect_restored(restore(area, {"--max-mem", "64M"}));
}

TEST_F(Trust, AFolderThatIsNoTextLosesNoMachine) {
    const std::string run = scratch_.file("run\xff\x1b[2J");
    const auto command_there = [&](std::vector<std::string> arguments) {
        arguments.insert(arguments.end(), {"--run-dir", run});
        return snapvm_command(arguments);
    };
    for (const bool as_json : {false, true}) {
        std::vector<std::string> words = {"run", "--kernel", "builtin:ledger", "--cmdline", "ws=1M", "--name",
                                          "a",   "-d"};
        if (as_json) {
            words.emplace_back("--json");
        }
        const CommandResult started = command_there(words);
        EXPECT_EQ(started.exit_code, 0) << started.err;
        EXPECT_EQ(started.out.find_first_of("\x1b\xff"), std::string::npos) << started.out;
        EXPECT_NE(command_there({"ps", "--json"}).out.find("\"a\""), std::string::npos);
        EXPECT_EQ(command_there({"stop", "a", "--force"}).exit_code, 0);
    }
}

TEST_F(Trust, InspectShowsWhatARestoreWouldUse) {
    const json devices = json_of({"inspect", make_snapshot()})["devices"];
    EXPECT_EQ(devices, (json{{{"kind", "disk"},
                              {"id", "root"},
                              {"bytes", 1 << 20},
                              {"path", scratch_.file("disk")},
                              {"format", "raw"},
                              {"read_only", false},
                              {"werror", "report"}},
                             {{"kind", "disk"},
                              {"id", "seed"},
                              {"bytes", 1 << 20},
                              {"path", scratch_.file("seed")},
                              {"format", "raw"},
                              {"read_only", true},
                              {"werror", "report"}},
                             {{"kind", "vsock"}, {"cid", 3}, {"socket", scratch_.file("v")}}}));
}

TEST_F(Trust, ASnapshotWithoutARecordIsCompleteAndSaysWhatFollows) {
    const ScopedVariable state("XDG_STATE_HOME", nullptr);
    const ScopedVariable home("HOME", "/nonexistent");
    ASSERT_EQ(run_ledger("ws=4M", "", {"-d", "--name", "a", "--disk", "id=root,path=" + make_file("disk")}).exit_code,
              0);
    const std::string area = scratch_.file("area");
    const CommandResult taken = command({"snapshot", "a", area});
    EXPECT_EQ(taken.exit_code, 0) << taken.err;
    EXPECT_NE(taken.err.find("to restore it, name that with --set, or give --trust-paths"), std::string::npos)
        << taken.err;
    EXPECT_TRUE(json_of({"snapshot", "a", area, "--then", "stop"}).contains("unrecorded"));
    expect_refused(restore(area), "--set disk.root.path=" + scratch_.file("disk"));
    expect_restored(restore(area, {"--trust-paths"}));
    // A machine that uses nothing of the host's needs no record.
    start("plain");
    const CommandResult plain = command({"snapshot", "plain", scratch_.file("plain"), "--then", "stop"});
    EXPECT_EQ(plain.err, "");
    expect_restored(restore(scratch_.file("plain")));
}

}  // namespace
}  // namespace snapvm::test
