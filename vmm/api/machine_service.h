// SPDX-License-Identifier: Apache-2.0
// A real machine behind the API.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "snapshot/history.h"
#include "snapshot/stopwatch.h"
#include "vmm/api/service.h"
#include "vmm/machine/machine.h"

namespace snapvm::api {

/// `machine` must outlive it. Any thread but a vCPU's.
class MachineService final : public Service {
public:
    /// `names` is for refusals that are about other machines.
    MachineService(Machine& machine, std::string id, MachineNames names = {})
        : id_(std::move(id)), machine_(machine), names_(std::move(names)) {}

    /// Calls off a snapshot that is being made in the background, and waits for it.
    ~MachineService() override;
    MachineService(const MachineService&) = delete;
    MachineService& operator=(const MachineService&) = delete;

    [[nodiscard]] std::string id() const override { return id_; }
    [[nodiscard]] ServiceState state() const override;
    [[nodiscard]] const MachineConfig& config() const override { return machine_.config(); }
    [[nodiscard]] ServiceStats stats() const override;
    Status pause() override;
    Status resume() override;
    Result<SnapshotReport> snapshot(const SnapshotRequest& request) override;
    Status start_snapshot(const SnapshotRequest& request) override;
    [[nodiscard]] SnapshotStatus snapshot_status() const override;
    Status cancel_snapshot() override;
    Result<DetachReport> detach() override;
    [[nodiscard]] Result<BalloonStatus> balloon() const override { return machine_.balloon(); }
    Status set_balloon(std::uint64_t bytes) override;
    Status set_balloon_polling(std::uint16_t seconds) override { return machine_.set_balloon_polling(seconds); }
    Result<BalloonReport> balloon_statistics() override;
    Result<Outcome> stop(const StopRequest& request) override;
    Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) override;
    [[nodiscard]] const Console& console() const override { return machine_.console(); }
    [[nodiscard]] const Console& terminal() const override {
        return virtio_terminal_ ? machine_.virtio_console() : machine_.console();
    }
    void resize_terminal(TerminalSize size) override;
    std::size_t send_input(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline) override;
    /// The virtio console is the machine's terminal, not the serial port. Before the API is there.
    void use_virtio_terminal() { virtio_terminal_ = true; }
    /// The machine's run is over: calls off a snapshot that has not had its pause, since none will come.
    void run_ended();

private:
    [[nodiscard]] std::optional<Outcome> outcome() const { return machine_.wait_ended(std::chrono::steady_clock::now()); }
    [[nodiscard]] std::unexpected<Error> ended_error(std::string_view wish) const;
    /// What takes its time, and can be looked at and called off meanwhile; by itself, a detach.
    struct Watched {
        SnapshotMonitor monitor;
        Stopwatch since_start;
    };
    /// One snapshot, from its start until somebody asks how it went.
    struct Job : Watched {
        std::optional<Result<SnapshotReport>> result;
    };
    static SnapshotStatus status_of(const Watched& watched);
    Result<std::shared_ptr<Job>> claim_snapshot();
    Result<SnapshotReport> run_snapshot(Job& job, const SnapshotRequest& request);
    Result<SnapshotReport> write_and_then(Job& job, const SnapshotRequest& request);

    std::string id_;
    Machine& machine_;
    MachineNames names_;
    bool virtio_terminal_ = false;
    Stopwatch uptime_;
    mutable std::mutex snapshot_;  ///< guards the four below; innermost
    std::condition_variable snapshot_over_;
    std::shared_ptr<Watched> detaching_;  ///< while it is being detached
    std::shared_ptr<Job> job_;  ///< the last one, or the one that runs: without a result
    std::optional<SnapshotReport> last_report_;  ///< of the last one that went well
    std::mutex starting_;  ///< one start_snapshot at a time; guards the next
    std::thread background_;
    SnapshotHistory history_;  ///< of whoever has claimed the snapshot
};

}  // namespace snapvm::api
