// SPDX-License-Identifier: Apache-2.0
// Processes that have no machine at first: they wait for PUT /snapshot/load, can be controlled
// before, and are machines like others after it.
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "snapshot/format/superblock.h"
#include "tests/kvm/cli_fixture.h"
#include "tests/support/need.h"
#include "vmm/api/client.h"
#include "vmm/api/routes.h"

namespace snapvm::test {
namespace {

constexpr const char* kNoMachine = "the instance has no machine yet; load one with PUT /snapshot/load";

class InstanceCli : public Cli {
protected:
    /// Makes a snapshot of a ledger machine, which ends.
    std::string make_snapshot() {
        start("source");
        EXPECT_EQ(command({"wait", "source", "--for", "ready"}).exit_code, 0);
        std::string area = scratch_.file("area");
        const CommandResult made = command({"snapshot", "source", area, "--then", "stop"});
        EXPECT_EQ(made.exit_code, 0) << made.err;
        return area;
    }
    /// Starts an instance without a machine in the background.
    void start_empty(const std::string& name) {
        const CommandResult started = command({"run", "--name", name, "-d", "--json"});
        ASSERT_EQ(started.exit_code, 0) << started.err;
        const json report = json::parse(started.out, nullptr, false);
        EXPECT_EQ(report.value("name", ""), name);
        EXPECT_EQ(report.value("first_run_us", 1), 0);
        EXPECT_EQ(report.value("total_us", 0), report.value("state_us", 1));
    }
    /// Starts one in the foreground. It is there when this returns.
    std::future<CommandResult> run_empty(const std::string& name, std::vector<std::string> more = {},
                                         const std::string& input = {}) {
        more.insert(more.begin(), {"run", "--name", name});
        auto running = std::async(std::launch::async, [=, this] { return command(more, input); });
        EXPECT_TRUE(eventually([&] { return state_of(name) == "Not started"; }));
        return running;
    }
    api::ApiReply ask(const std::string& name, std::string_view method, std::string_view target,
                      const std::string& body = {}) {
        auto client = need(api::ApiClient::connect(scratch_.file("run") + "/" + name + "/api.sock"));
        return need(client.request(method, target, body, kPatience));
    }
    api::ApiReply load(const std::string& name, const std::string& area, const json& more = json::object()) {
        json body = {{"snapshot_path", area}};
        body.update(more);
        return ask(name, "PUT", "/snapshot/load", body.dump());
    }
    /// Returns what `snapvm ps` says of one, or nothing.
    json listed(const std::string& name) {
        std::istringstream lines(command({"ps", "--json"}).out);
        for (std::string line; std::getline(lines, line);) {
            json one = json::parse(line, nullptr, false);
            if (one.is_object() && one.value("name", "") == name) {
                return one;
            }
        }
        return json::object();
    }
    std::string state_of(const std::string& name) { return listed(name).value("state", ""); }
    /// Has the guest check its ledger and end.
    void expect_sound(const std::string& name) {
        const CommandResult console = command({"console", name}, "q");
        EXPECT_EQ(console.exit_code, 0) << console.err;
        EXPECT_NE(console.out.find("LEDGER OK"), std::string::npos) << console.out;
    }
};

TEST_F(InstanceCli, IsListedAndCountedWithoutAMachine) {
    start_empty("e");
    const json one = listed("e");
    EXPECT_EQ(one.value("state", ""), "Not started");
    EXPECT_EQ(one.value("cpus", 1), 0);
    EXPECT_EQ(one.value("memory_bytes", 1), 0);
    EXPECT_GT(one.value("pid", 0), 0);
    const std::string text = command({"ps"}).out;
    EXPECT_NE(text.find("Not started       -    -"), std::string::npos) << text;
    EXPECT_EQ(command({"stats", "e"}).exit_code, 0);
    EXPECT_EQ(command({"snapshot-status", "e"}).exit_code, 0);
}

TEST_F(InstanceCli, EachRouteSaysThatThereIsNoMachine) {
    start_empty("e");
    for (const api::Route& route : api::routes()) {
        if (route.path == "/stop" || route.path == "/wait" || route.path == "/snapshot/load") {
            continue;  // the tests below
        }
        const api::ApiReply reply = ask("e", route.method, route.path, route.method == "GET" ? "" : "{}");
        if (route.states.has(ServiceState::not_started)) {
            EXPECT_EQ(reply.status, 200U) << route.method << " " << route.path << ": " << reply.body;
        } else {
            EXPECT_EQ(reply.status, 400U) << route.method << " " << route.path;
            EXPECT_EQ(reply.fault(), kNoMachine) << route.method << " " << route.path;
        }
    }
    for (const std::string name : {"pause", "resume", "detach", "balloon", "console"}) {
        const CommandResult refused = command({name, "e"});
        EXPECT_EQ(refused.exit_code, 1) << name;
        EXPECT_NE(refused.err.find(kNoMachine), std::string::npos) << name << ": " << refused.err;
    }
    EXPECT_EQ(state_of("e"), "Not started");
}

TEST_F(InstanceCli, EndsByAStopASignalAndItsTimeout) {
    auto stopped = run_empty("a");
    EXPECT_EQ(command({"stop", "a"}).exit_code, 0);
    const CommandResult result = stopped.get();
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.out + result.err, "");
    auto interrupted = run_empty("b");
    ASSERT_EQ(::kill(listed("b").value("pid", 0), SIGINT), 0);
    EXPECT_EQ(interrupted.get().exit_code, 0);

    const CommandResult timed_out = command({"run", "--name", "c", "--timeout", "300ms"});
    EXPECT_EQ(timed_out.exit_code, 124);
    EXPECT_EQ(timed_out.err, "snapvm: c: ended by --timeout\n");
    EXPECT_TRUE(machines().empty());
}

TEST_F(InstanceCli, ASocketIsEnoughAndGoesWithIt) {
    const std::string socket = scratch_.file("api.sock");
    auto running = std::async(std::launch::async, [&] { return command({"run", "--api-socket", socket}); });
    ASSERT_TRUE(eventually([&] { return api::ApiClient::connect(socket).has_value(); }));
    auto client = need(api::ApiClient::connect(socket));
    EXPECT_EQ(json::parse(need(client.request("GET", "/", {}, kPatience)).body)["state"], "Not started");
    EXPECT_EQ(need(client.request("PUT", "/stop", {}, kPatience)).status, 200U);
    EXPECT_EQ(running.get().exit_code, 0);
    EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(socket)));
}

TEST_F(InstanceCli, LoadsPausedAndRunsWhenItIsResumed) {
    const std::string area = make_snapshot();
    start_empty("e");
    const api::ApiReply loaded = load("e", area, {{"mem_file_path", area}, {"resume_vm", false}});
    EXPECT_EQ(loaded.status, 204U) << loaded.body;
    EXPECT_EQ(state_of("e"), "Paused");
    EXPECT_EQ(listed("e").value("memory_bytes", 0), 64 << 20);
    const api::ApiReply second = load("e", area);
    EXPECT_EQ(second.status, 400U);
    EXPECT_EQ(second.fault(),
              "this process has a machine already, and a snapshot is loaded into a new one; use snapvm restore");
    EXPECT_EQ(command({"resume", "e"}).exit_code, 0);
    EXPECT_EQ(state_of("e"), "Running");
    expect_sound("e");
    EXPECT_TRUE(machines().empty()) << "the process ends with its machine";
}

TEST_F(InstanceCli, ADamagedOlderSnapshotIsNamedInTheLog) {
    start("source");
    EXPECT_EQ(command({"wait", "source", "--for", "ready"}).exit_code, 0);
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"area", "create", area, "--for", "source", "--slots", "2"}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "source", area}).exit_code, 0);
    ASSERT_EQ(command({"snapshot", "source", area, "--then", "stop"}).exit_code, 0);
    {
        std::fstream file(area, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(kSuperblockHeaderSize + 8);  // in the section table of the first slot, the older one
        file.put('!');
    }
    start_empty("e");
    ASSERT_EQ(load("e", area, {{"resume_vm", true}}).status, 204U);
    const std::string log = scratch_.file("run/e/log");
    const std::string warning = "e: warning: " + area + ": superblock 0 has a section table with a wrong checksum";
    EXPECT_TRUE(eventually([&] { return read_file(log, 4096).value_or("").find(warning) != std::string::npos; }))
        << read_file(log, 4096).value_or("");
    expect_sound("e");
}

TEST_F(InstanceCli, LoadsRunningWithTheLinesOfTheProcess) {
    const std::string area = make_snapshot();
    auto running = run_empty("e", {}, "q");
    EXPECT_EQ(load("e", area, {{"resume_vm", true}}).status, 204U);
    const CommandResult result = running.get();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.out.find("LEDGER OK"), std::string::npos) << "typed on stdin, printed on stdout: " << result.out;
    EXPECT_EQ(result.err, "");
}

TEST_F(InstanceCli, AWaitForReadyWaitsForTheMachine) {
    const std::string area = make_snapshot();
    start_empty("e");
    for (const std::string what : {"ready", "exit", "serial=LEDGER"}) {
        EXPECT_EQ(command({"wait", "e", "--for", what, "--timeout", "100ms"}).exit_code, 124) << what;
    }
    auto ready = std::async(std::launch::async, [&] { return command({"wait", "e", "--for", "ready"}); });
    EXPECT_EQ(load("e", area, {{"resume_vm", true}}).status, 204U);
    EXPECT_EQ(ready.get().exit_code, 0) << "a machine saved after READY is ready when it runs";
}

TEST_F(InstanceCli, ALoadThatFailsLeavesItUsable) {
    const std::string area = make_snapshot();
    const std::string text = scratch_.file("text");
    std::ofstream(text) << std::string(1 << 20, 'x');
    const std::string torn = scratch_.file("torn");
    std::filesystem::copy_file(area, torn);
    std::filesystem::resize_file(torn, std::filesystem::file_size(torn) / 2);
    start_empty("e");
    for (const std::string& path : {scratch_.file("missing"), scratch_.path(), text, torn}) {
        const api::ApiReply refused = load("e", path, {{"resume_vm", true}});
        EXPECT_EQ(refused.status, 400U) << path << ": " << refused.body;
        EXPECT_FALSE(refused.fault().empty());
        EXPECT_EQ(state_of("e"), "Not started");
    }
    const json overrides = {{"network_overrides", {{{"iface_id", "eth0"}, {"host_dev_name", "tap0"}}}}};
    EXPECT_EQ(load("e", area, overrides).fault(), "the machine in the snapshot has no network interface eth0");
    EXPECT_EQ(load("e", area, {{"vsock_override", {{"uds_path", "/v"}}}}).fault(),
              "the machine in the snapshot has no vsock");
    EXPECT_EQ(load("e", area, {{"resume_vm", true}}).status, 204U);
    expect_sound("e");
}

TEST_F(InstanceCli, AMachineWithoutAConsoleIsRefusedByAProcessThatShowsOne) {
    const std::string area = make_snapshot();
    const CommandResult started =
        command({"run", "--name", "e", "-d", "--console", "file=" + scratch_.file("console.log")});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    EXPECT_EQ(load("e", area).fault(), "the machine in the snapshot has no virtio console; leave --console out");
    EXPECT_EQ(state_of("e"), "Not started");
}

TEST_F(InstanceCli, DiffSnapshotsFollowALoadThatEnablesThem) {
    const std::string area = make_snapshot();
    const std::string next = scratch_.file("next");
    const json full = {{"snapshot_path", next}, {"snapshot_type", "Full"}};
    const json diff = {{"snapshot_path", next}, {"snapshot_type", "Diff"}};
    for (const bool enabled : {false, true}) {
        start_empty("e");
        ASSERT_EQ(load("e", area, {{"enable_diff_snapshots", enabled}}).status, 204U);
        const api::ApiReply first = ask("e", "PUT", "/snapshot/create", full.dump());
        ASSERT_EQ(first.status, 200U) << first.body;
        EXPECT_EQ(ask("e", "PUT", "/snapshot/create", diff.dump()).status, enabled ? 200U : 400U);
        EXPECT_EQ(command({"stop", "e", "--force"}).exit_code, 0);
    }
}

}  // namespace
}  // namespace snapvm::test
