// SPDX-License-Identifier: Apache-2.0
// The API on a real machine with the ledger guest: every route, through the socket.
#include <sys/socket.h>

#include <future>

#include "guest-images/ledger/image.h"
#include "snapshot/restore/restore.h"
#include "tests/support/require_kvm.h"
#include "tests/unit/vmm/api/fake_service.h"
#include "tests/unit/vmm/api/schema_check.h"
#include "vmm/control/machine_service.h"
#include "vmm/machine/machine.h"

namespace snapvm::api::test {
namespace {

using Json = nlohmann::json;

class ApiMachine : public testing::Test {
protected:
    void TearDown() override {
        if (server) {
            server->stop();
        }
    }
    void boot(const std::string& options = "") {
        auto opened = kvm::System::open();
        ASSERT_TRUE(opened.has_value());
        system.emplace(*std::move(opened));
        MachineConfig config;
        config.memory_bytes = 32ULL << 20;
        config.kernel = "builtin:ledger";
        config.cmdline = "ws=1M " + options;
        config.machine_id = *Uuid::random();
        const BootSource source{
            .kernel = ledger_image(), .initrds = {}, .cmdline = config.cmdline, .cpus = config.cpus};
        auto made = Machine::create(*system, config, source);
        ASSERT_TRUE(made.has_value()) << made.error().message();
        machine = *std::move(made);
        service.emplace(*machine, "api-test");
        auto started = Server::start(socket, *service);
        ASSERT_TRUE(started.has_value()) << started.error().message();
        server = *std::move(started);
    }
    void boot_until_ready() {
        boot();
        ASSERT_TRUE(machine->resume().has_value());
        ask("GET", "/wait?for=ready&timeout_ms=60000", "", 200);
    }
    /// Sends a request and returns the answer's JSON. The answer must match the document and have
    /// this status.
    Json ask(const std::string& method, const std::string& target, const std::string& body, unsigned status) {
        auto client = ApiClient::connect(socket);
        EXPECT_TRUE(client.has_value());
        const auto reply = client->request(method, target, body, 90s);
        EXPECT_TRUE(reply.has_value()) << reply.error().message();
        EXPECT_EQ(reply->status, status) << method << " " << target << ": " << reply->body;
        std::string low = method;
        std::ranges::transform(low, low.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        EXPECT_EQ(answer_mismatch(api, target.substr(0, target.find('?')), low, reply->status, reply->body), "");
        return Json::parse(reply->body.empty() ? "null" : reply->body, nullptr, false);
    }
    void type(std::string_view keys) {
        const std::string text(keys);
        machine->serial().send({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
    }

    const Json api = load_openapi();
    TempFolder folder;
    std::string socket = folder / "api.sock";
    std::optional<kvm::System> system;
    std::unique_ptr<Machine> machine;
    std::optional<MachineService> service;
    std::unique_ptr<Server> server;
};

TEST_F(ApiMachine, SaysWhatItIs) {
    SNAPVM_REQUIRE_KVM();
    boot();
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Paused") << "it has not run yet";
    EXPECT_EQ(ask("GET", "/", "", 200)["id"], "api-test");
    EXPECT_EQ(ask("GET", "/machine-config", "", 200)["mem_size_mib"], 32);
    EXPECT_EQ(ask("GET", "/vm/config", "", 200)["boot-source"]["boot_args"], "ws=1M ");
    ask("GET", "/version", "", 200);
    ask("PUT", "/snapshot/load", R"({"snapshot_path":"/x"})", 400);
    ask("PATCH", "/vm", R"({"state":"Resumed"})", 204);
    ask("GET", "/wait?for=ready&timeout_ms=60000", "", 200);
    const Json stats = ask("GET", "/stats", "", 200);
    EXPECT_EQ(stats["ready"], true);
    EXPECT_EQ(stats["state"], "Running");
    EXPECT_GT(stats["exits"], 0);
    EXPECT_GT(stats["counters"]["vcpus"]["exits"], 0);
    EXPECT_EQ(stats["counters"]["page-faults"]["answered"], 0);
    EXPECT_FALSE(stats.contains("snapshot"));
}

TEST_F(ApiMachine, PausesAndResumes) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    ask("PATCH", "/vm", R"({"state":"Paused"})", 204);
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Paused");
    type("s");
    ask("GET", "/wait?for=serial&regex=STEPS&timeout_ms=100", "", 408);
    ask("PATCH", "/vm", R"({"state":"Resumed"})", 204);
    const Json steps = ask("GET", "/wait?for=serial&regex=%5ELEDGER%20STEPS%20%5Cd%2B%24&timeout_ms=60000", "", 200);
    EXPECT_TRUE(steps["line"].get<std::string>().starts_with("LEDGER STEPS ")) << steps;
}

TEST_F(ApiMachine, SnapshotsWhileItRunsAndRestores) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    const std::string area = folder / "area";
    const Json result =
        ask("PUT", "/snapshot/create", Json{{"snapshot_path", area}, {"metadata", {{"why", "test"}}}}.dump(), 200);
    EXPECT_GT(result["pages"]["common"], 0);
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Running");
    EXPECT_EQ(ask("GET", "/stats", "", 200)["snapshot"], result);
    // A snapshot that fails changes nothing in the last one's report.
    ask("PUT", "/snapshot/create", Json{{"snapshot_path", "/nonexistent/folder/area"}}.dump(), 400);
    EXPECT_EQ(ask("GET", "/stats", "", 200)["snapshot"], result);
    type("v");
    const Json verified = ask("GET", "/wait?for=serial&regex=LEDGER%20(OK%7CBAD)&timeout_ms=60000", "", 200);
    EXPECT_TRUE(verified["line"].get<std::string>().starts_with("LEDGER OK")) << verified;

    auto restored = open_snapshot(AreaPath{area, 0});
    ASSERT_TRUE(restored.has_value()) << restored.error().message();
    auto again = Machine::restore(*system, restored->saved, std::move(restored->memory));
    ASSERT_TRUE(again.has_value()) << again.error().message();
    MachineService second(**again, "second");
    ASSERT_TRUE(second.resume().has_value());
    const std::uint8_t verify = 'v';
    EXPECT_EQ(second.send_input(std::span(&verify, 1), std::chrono::steady_clock::now() + 60s), 1U);
    const auto line = second.wait({.what = WaitFor::serial, .regex = "LEDGER (OK|BAD)", .timeout = 60s}, {});
    ASSERT_TRUE(line.has_value() && line->has_value());
    EXPECT_TRUE((*line)->line.starts_with("LEDGER OK")) << (*line)->line;
    const auto ready = second.wait({.what = WaitFor::ready, .regex = {}, .timeout = 0ms}, {});
    EXPECT_TRUE(ready.has_value() && ready->has_value()) << "a machine restored after READY is ready";
}

TEST_F(ApiMachine, ThenPauseAndThenStopRunNothingAfterTheSnapshot) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    const std::string area = folder / "area";
    ask("PUT", "/snapshot/create", Json{{"snapshot_path", area}, {"then", "pause"}}.dump(), 200);
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Paused");
    // A machine that was paused before stays paused unless the request says otherwise.
    ask("PUT", "/snapshot/create", Json{{"snapshot_path", area}, {"mem_file_path", area}}.dump(), 204);
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Paused");
    ask("PUT", "/snapshot/create", Json{{"snapshot_path", area}, {"then", "run"}}.dump(), 200);
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Running");
    ask("PUT", "/snapshot/create", Json{{"snapshot_path", area}, {"then", "stop"}}.dump(), 200);
    EXPECT_EQ(ask("GET", "/wait?for=exit&timeout_ms=60000", "", 200)["outcome"], "stopped");
    ask("PATCH", "/vm", R"({"state":"Resumed"})", 400);
    ask("PUT", "/snapshot/create", Json{{"snapshot_path", area}}.dump(), 400);
}

TEST_F(ApiMachine, RefusedSnapshotLeavesItRunning) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    const std::string foreign = folder / "foreign";
    std::ofstream(foreign) << std::string(1 << 20, 'x');
    for (const std::string& path : {std::string("/nonexistent/folder/area"), std::string("/"), foreign}) {
        const Json fault = ask("PUT", "/snapshot/create", Json{{"snapshot_path", path}}.dump(), 400);
        EXPECT_TRUE(fault.contains("fault_message")) << path;
    }
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Running");
    type("v");
    ask("GET", "/wait?for=serial&regex=LEDGER%20OK&timeout_ms=60000", "", 200);
}

TEST_F(ApiMachine, WaitForExitTellsTheGuestsCode) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    auto exit = std::async(std::launch::async, [&] { return ask("GET", "/wait?for=exit&timeout_ms=60000", "", 200); });
    type("q");
    const Json how = exit.get();
    EXPECT_EQ(how["outcome"], "exit");
    EXPECT_EQ(how["exit_code"], 0);
    EXPECT_EQ(ask("GET", "/stats", "", 200)["outcome"], "exit");
    EXPECT_EQ(ask("PUT", "/stop", "", 200)["outcome"], "exit") << "how it ended first";
    ask("GET", "/wait?for=serial&regex=never&timeout_ms=60000", "", 400);
}

TEST_F(ApiMachine, ConsoleBothWaysUntilTheEnd) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    auto client = ApiClient::connect(socket);
    auto stream = std::move(*client).open_console(10s);
    ASSERT_TRUE(stream.has_value()) << stream.error().message();
    ASSERT_EQ(::send(stream->fd.get(), "sq", 2, MSG_NOSIGNAL), 2);
    std::string all = stream->first;
    std::array<char, 4096> chunk;
    for (ssize_t got = 0;
         (got = ::recv(stream->fd.get(), chunk.data(), chunk.size(), 0)) > 0 || (got < 0 && errno == EAGAIN);) {
        if (got > 0) {
            all.append(chunk.data(), static_cast<std::size_t>(got));
        } else {
            std::this_thread::sleep_for(1ms);
        }
    }
    EXPECT_NE(all.find("LEDGER READY"), std::string::npos) << "scrollback: " << all;
    EXPECT_NE(all.find("LEDGER STEPS"), std::string::npos) << all;
    EXPECT_NE(all.find("LEDGER OK"), std::string::npos) << "up to the last line: " << all;
}

TEST_F(ApiMachine, StopEndsIt) {
    SNAPVM_REQUIRE_KVM();
    boot_until_ready();
    const Json how = ask("PUT", "/stop", R"({"force":true})", 200);
    EXPECT_EQ(how["outcome"], "stopped");
    EXPECT_EQ(how["exit_code"], 0);
    EXPECT_EQ(ask("GET", "/", "", 200)["state"], "Ended");
}

}  // namespace
}  // namespace snapvm::api::test
