// SPDX-License-Identifier: Apache-2.0
// A Service for an instance that has its machine: an Instance uses it, and the public Machine
// (vmm/embed).
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "snapshot/write/history.h"
#include "vmm/base/stopwatch.h"
#include "vmm/control/service.h"
#include "vmm/machine/machine.h"

namespace snapvm {

/// Serves one machine, which must outlive it. Any thread except a vCPU's may call it.
class MachineService final : public Service {
public:
    /// `names` resolves the names of other machines in error messages.
    MachineService(Machine& machine, std::string id, MachineNames names = {})
        : id_(std::move(id)), machine_(machine), names_(std::move(names)) {}

    /// Cancels a snapshot that runs in the background, and waits until it has ended.
    ~MachineService() override;
    MachineService(const MachineService&) = delete;
    MachineService& operator=(const MachineService&) = delete;

    [[nodiscard]] std::string id() const override { return id_; }
    [[nodiscard]] ServiceState state() const override;
    [[nodiscard]] std::string pause_reason() const override;
    [[nodiscard]] Result<MachineConfig> config() const override { return machine_.config(); }
    [[nodiscard]] Result<std::vector<std::uint64_t>> disk_bytes() const override { return machine_.disk_bytes(); }
    [[nodiscard]] ServiceStats stats() const override;
    /// Always fails, since there is a machine.
    Status load(const LoadRequest& request) override;
    Status pause() override;
    Status resume() override;
    Result<SnapshotReport> snapshot(const SnapshotRequest& request) override;
    Status start_snapshot(const SnapshotRequest& request) override;
    [[nodiscard]] SnapshotStatus snapshot_status() const override;
    Status cancel_snapshot() override;
    Result<DetachReport> detach() override;
    Result<LayerTaken> take_layer(const LayerRequest& request) override;
    [[nodiscard]] Result<BalloonStatus> balloon() const override { return machine_.balloon().status(); }
    Status set_balloon(std::uint64_t bytes) override;
    Status set_balloon_polling(std::uint16_t seconds) override { return machine_.balloon().set_polling(seconds); }
    Result<BalloonReport> balloon_statistics() override;
    Result<Outcome> stop(const StopRequest& request) override;
    Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) override;
    [[nodiscard]] Result<const Console*> terminal() const override {
        return &(virtio_terminal_ ? machine_.virtio_console() : machine_.serial()).output();
    }
    Result<std::uint64_t> resize_disk(const DiskResize& request) override;
    Status resize_terminal(TerminalSize size) override;
    std::size_t send_input(std::span<const std::uint8_t> bytes,
                           std::chrono::steady_clock::time_point deadline) override;
    /// Makes the virtio console the machine's terminal, in place of the serial port. Called before
    /// the API serves requests.
    void use_virtio_terminal() { virtio_terminal_ = true; }
    /// Makes all snapshots with SnapshotRequest::track. Called before the API serves requests.
    void track_snapshots() { track_snapshots_ = true; }
    /// Tells the service that the run has ended. Cancels a snapshot that has not paused the machine
    /// yet, since that pause cannot come any more.
    void run_ended();

private:
    [[nodiscard]] std::optional<Outcome> outcome() const {
        return machine_.wait_ended(std::chrono::steady_clock::now());
    }
    [[nodiscard]] std::unexpected<Error> ended_error(std::string_view wish) const;
    [[nodiscard]] const Console& serial_output() const { return machine_.serial().output(); }
    /// A long operation that can be watched and cancelled; on its own, a detach.
    struct Watched {
        SnapshotMonitor monitor;
        Stopwatch since_start;
    };
    /// One snapshot, from its start until the next one starts.
    struct Job : Watched {
        std::optional<Result<SnapshotReport>> result;
    };
    static SnapshotStatus status_of(const Watched& watched);
    [[nodiscard]] Status check_idle() const;  // snapshot_ is held
    Result<std::shared_ptr<Job>> claim_snapshot();
    Result<SnapshotReport> run_snapshot(Job& job, const SnapshotRequest& request);
    Result<SnapshotReport> write_and_then(Job& job, const SnapshotRequest& request);

    std::string id_;
    Machine& machine_;
    MachineNames names_;
    bool virtio_terminal_ = false;
    bool track_snapshots_ = false;
    Stopwatch uptime_;
    mutable std::mutex snapshot_;  ///< guards the four below; no other lock is taken under it
    std::condition_variable snapshot_over_;
    std::shared_ptr<Watched> detaching_;  ///< the detach that runs, or null
    bool taking_layer_ = false;
    std::shared_ptr<Job> job_;  ///< the last snapshot, or the one that runs, which has no result yet
    std::optional<SnapshotReport> last_report_;  ///< of the last snapshot that succeeded
    std::mutex starting_;  ///< held during start_snapshot; guards background_
    std::thread background_;
    SnapshotHistory history_;  ///< used by the thread that claimed the snapshot
};

}  // namespace snapvm
