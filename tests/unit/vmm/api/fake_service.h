// SPDX-License-Identifier: Apache-2.0
// A service without a machine, a server on it, and a folder for its socket.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

#include "vmm/api/client.h"
#include "vmm/api/server.h"
#include "vmm/base/try.h"
#include "vmm/control/line_matcher.h"
#include "vmm/control/service.h"

namespace snapvm::api::test {

using namespace std::chrono_literals;

class FakeService final : public Service {
public:
    static constexpr std::uint64_t kDiskBytes = 1 << 20;

    FakeService() {
        config_.kernel = "builtin:fake";
        config_.devices.disks = {{.id = "root", .path = "/vm/root.ext4", .read_only = true}};
        config_.devices.nets = {{.id = "eth0", .tap = "tap0", .mac = {2, 0, 0, 0, 0xAB, 1}}};
        config_.devices.vsock = {.cid = 3, .socket = "/vm/v"};
        config_.devices.balloon = {.bytes = 16 << 20};
        config_.devices.rng = true;
    }

    [[nodiscard]] std::string id() const override { return "fake"; }
    [[nodiscard]] ServiceState state() const override { return state_; }
    [[nodiscard]] std::string pause_reason() const override { return pause_reason_; }
    [[nodiscard]] Result<MachineConfig> config() const override { return config_; }
    [[nodiscard]] Result<std::vector<std::uint64_t>> disk_bytes() const override { return std::vector{kDiskBytes}; }
    Result<std::uint64_t> resize_disk(const DiskResize& request) override {
        last_resize = request;
        return request.id == "root" ? Result<std::uint64_t>(request.bytes.value_or(kDiskBytes))
                                    : fail(ErrorKind::not_found, "this machine has no disk " + request.id);
    }
    Status load(const LoadRequest& request) override {
        if (request.restore.area.path == "/missing") {
            return fail(Error::system("open", "/missing", ENOENT));
        }
        last_load = request;
        return set(request.resume ? ServiceState::running : ServiceState::paused);
    }
    [[nodiscard]] ServiceStats stats() const override {
        ServiceStats stats;
        stats.id = "fake";
        stats.state = state_;
        stats.pause_reason = pause_reason_;
        stats.pid = 1;
        stats.cpus = 1;
        stats.networks = {{.id = "eth0", .link_up = true, .counters = {}}};
        for (const char* name : {"received_frames", "received_bytes", "received_dropped", "transmitted_frames",
                                 "transmitted_bytes", "transmitted_dropped"}) {
            stats.networks[0].counters.push_back({name, 3});
        }
        stats.counters = counters;
        if (!no_snapshot) {
            stats.snapshot.emplace();
            stats.snapshot->backend = "threads";
            stats.snapshot->pages[static_cast<std::size_t>(PageClass::shared)] = 5;
        }
        if (state_ == ServiceState::ended) {
            stats.outcome = outcome_;
        }
        return stats;
    }
    Status pause() override { return set(ServiceState::paused); }
    Status resume() override { return set(ServiceState::running); }
    Result<SnapshotReport> snapshot(const SnapshotRequest& request) override {
        if (request.area.path == "/full") {
            return fail(Error::system("write", "/full", ENOSPC));
        }
        if (request.area.path == "/busy") {
            return fail(ErrorKind::busy, "held");
        }
        const std::lock_guard lock(mutex_);
        last_snapshot = request;
        ++snapshots;
        SnapshotReport report;
        report.rounds.push_back({});
        report.backend = "threads";
        return report;
    }
    Status start_snapshot(const SnapshotRequest& request) override {
        auto report = snapshot(request);
        return report ? Status{} : fail(report.error());
    }
    [[nodiscard]] SnapshotStatus snapshot_status() const override {
        SnapshotStatus status;
        status.phase = SnapshotPhase::done;
        status.report.emplace();
        status.report->backend = "threads";
        status.error = Error(ErrorKind::cancelled, "called off");
        return status;
    }
    Result<LayerTaken> take_layer(const LayerRequest& request) override {
        last_layer = request;
        if (request.disk != "root") {
            return fail(ErrorKind::not_found, "the machine has no disk " + request.disk);
        }
        return LayerTaken{
            .disk = "root", .tag = request.tag, .frozen = "/a.t.qcow2", .active = "/a.qcow2", .held_us = 7};
    }
    LayerRequest last_layer;
    Result<DetachReport> detach() override {
        if (no_snapshot) {
            return fail(ErrorKind::busy, "a snapshot of this machine is being written");
        }
        return DetachReport{
            .mapped = true, .read_pages = 3, .copied_pages = 2, .freezes = 1, .longest_freeze_us = 40, .total_us = 90};
    }
    [[nodiscard]] Result<BalloonStatus> balloon() const override {
        return no_balloon ? fail(ErrorKind::usage, "this machine has no balloon") : Result<BalloonStatus>(balloon_);
    }
    Status set_balloon(std::uint64_t bytes) override {
        balloon_.target_bytes = bytes;
        return {};
    }
    Status set_balloon_polling(std::uint16_t seconds) override {
        TRY(balloon());
        balloon_.polling_seconds = seconds;
        return {};
    }
    Result<BalloonReport> balloon_statistics() override {
        BalloonReport report{TRY(balloon()), {}};
        report.statistics.values[virtio::BalloonStatistics::free_memory] = 5;
        return report;
    }
    Status cancel_snapshot() override {
        return no_snapshot ? fail(ErrorKind::usage, "no snapshot is being written") : Status{};
    }
    Result<Outcome> stop(const StopRequest& /*request*/) override {
        state_ = ServiceState::ended;
        if (!console_stays) {
            console_.close();
        }
        return outcome_;
    }
    Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) override {
        const auto deadline = std::chrono::steady_clock::now() + request.timeout;
        ++waiting;
        const auto leave = [this] { --waiting; };
        WaitResult result{.what = request.what, .ready_value = 7, .line = {}, .outcome = outcome_};
        if (request.what == WaitFor::serial) {
            const auto matcher = LineMatcher::compile(request.regex);
            const auto line = wait_for_line(console_, *matcher, deadline, given_up, {});
            leave();
            return line ? (result.line = *line, std::optional(result)) : std::optional<WaitResult>();
        }
        while (!(request.what == WaitFor::exit ? state_ == ServiceState::ended : ready.load())) {
            if (std::chrono::steady_clock::now() >= deadline || given_up()) {
                leave();
                return std::nullopt;
            }
            std::this_thread::sleep_for(1ms);
        }
        leave();
        return result;
    }
    [[nodiscard]] Result<const Console*> terminal() const override { return &console_; }
    Status resize_terminal(TerminalSize /*size*/) override { return {}; }
    std::size_t send_input(std::span<const std::uint8_t> bytes,
                           std::chrono::steady_clock::time_point deadline) override {
        if (deaf) {
            std::this_thread::sleep_until(deadline);
            return 0;
        }
        const std::lock_guard lock(mutex_);
        input.append(bytes.begin(), bytes.end());
        return bytes.size();
    }

    void set_state(ServiceState state) { state_ = state; }
    void set_pause_reason(std::string reason) { pause_reason_ = std::move(reason); }
    void print(std::string_view text) {
        for (const char c : text) {
            console_.put(static_cast<std::uint8_t>(c));
        }
    }
    std::string input_now() {
        const std::lock_guard lock(mutex_);
        return input;
    }

    std::atomic<bool> ready = false;
    std::atomic<bool> deaf = false;  ///< takes no input, like a paused guest
    std::atomic<bool> no_snapshot = false;
    std::atomic<int> waiting = 0;
    std::atomic<int> snapshots = 0;
    std::atomic<bool> no_balloon = false;
    std::atomic<bool> console_stays = false;  ///< a stop does not close it
    BalloonStatus balloon_{.target_bytes = 64 << 20, .actual_bytes = 32 << 20};
    SnapshotRequest last_snapshot;
    LoadRequest last_load;
    DiskResize last_resize;
    std::vector<PartCounters> counters;
    std::string input;
    Outcome outcome_{.kind = Outcome::Kind::guest_exit, .code = 3, .error = {}};
    MachineConfig config_;
    Console console_;

private:
    Status set(ServiceState state) {
        if (state_ == ServiceState::ended) {
            return fail(ErrorKind::usage, "the machine has ended");
        }
        state_ = state;
        return {};
    }
    std::atomic<ServiceState> state_ = ServiceState::running;
    std::string pause_reason_;  ///< set before the API serves
    std::mutex mutex_;
};

/// A folder that is removed with its contents.
class TempFolder {
public:
    TempFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "snapvm-api-XXXXXX").string();
        path_ = ::mkdtemp(name.data());
    }
    TempFolder(const TempFolder&) = delete;
    TempFolder& operator=(const TempFolder&) = delete;
    ~TempFolder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

/// Polls until the condition is true. Returns false after ten seconds.
template <class Condition>
bool eventually(Condition condition) {
    for (int i = 0; i < 10'000; ++i) {
        if (condition()) {
            return true;
        }
        std::this_thread::sleep_for(1ms);
    }
    return false;
}

class ServerTest : public testing::Test {
protected:
    void start(ServerLimits limits = {}) {
        auto started = Server::start(socket, service, limits);
        ASSERT_TRUE(started.has_value()) << started.error().message();
        server = *std::move(started);
    }
    ApiClient client() {
        auto connected = ApiClient::connect(socket);
        EXPECT_TRUE(connected.has_value()) << connected.error().message();
        return *std::move(connected);
    }
    ApiReply ask(std::string_view method, std::string_view target, std::string_view body = {}) {
        auto reply = client().request(method, target, body, 10s);
        EXPECT_TRUE(reply.has_value()) << reply.error().message();
        return reply ? *reply : ApiReply{};
    }

    TempFolder folder;
    std::string socket = folder / "api.sock";
    FakeService service;
    std::unique_ptr<Server> server;
};

}  // namespace snapvm::api::test
