// SPDX-License-Identifier: Apache-2.0
// A process or library object that may have a machine, and exists before it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "vmm/base/stopwatch.h"
#include "vmm/control/machine_service.h"
#include "vmm/control/service.h"
#include "vmm/machine/machine.h"

namespace snapvm {

/// The host's side of an instance.
struct InstanceOptions {
    std::string id;
    /// Builds the machine that load() asks for, without running it. Tests have one of their own.
    std::function<Result<std::unique_ptr<Machine>>(const LoadRequest&)> loader;
    MachineNames names = {};       ///< resolves the names of other machines in error messages
    std::function<void()> stopped = {};  ///< called after each stop(), on its thread, when the run has ended
    bool virtio_terminal = false;  ///< the virtio console is the terminal, in place of the serial port
};

/// An instance gets one machine, by start() or by load(), and keeps it until it is destroyed. Its
/// state is not_started until then, and after that the machine's. The run ends with the machine's
/// run, or by end() without a machine; no machine comes after that.
///
/// As a Service it does to its machine what MachineService does. Without a machine these functions
/// fail with usage, and change nothing; id, state, stats, load, stop, wait and snapshot_status work
/// in every state.
///
/// Any thread except a vCPU's may call it. `mutex_` is a leaf that guards which machine there is
/// and how an instance without one has ended. It is free while a machine is built or controlled, so
/// an instance that loads a snapshot still answers, and can be stopped.
class Instance final : public Service {
public:
    using Clock = std::chrono::steady_clock;

    explicit Instance(InstanceOptions options) : options_(std::move(options)) {}
    /// Destroys the machine. No other call may be under way.
    ~Instance() override = default;
    Instance(const Instance&) = delete;
    Instance& operator=(const Instance&) = delete;

    /// Takes a machine and, if `run` is true, runs it. Fails with usage if the instance has a
    /// machine or has ended, with busy while a snapshot is loaded, and like Machine::resume. The
    /// given machine is then destroyed, and the instance is as before.
    Status start(std::unique_ptr<Machine> machine, bool run);
    /// Likewise, with the machine that the loader builds. Fails also like the loader.
    Status load(const LoadRequest& request) override;

    /// Returns the machine, or null if there is none yet.
    [[nodiscard]] Machine* machine() const;
    /// Waits for a machine and returns it. Returns null if the deadline passes first, or the run
    /// ends without one.
    Machine* wait_machine(Clock::time_point deadline) const;
    /// Ends the run from outside. Does nothing if it has ended.
    void end(const Outcome& outcome);
    /// Waits until the run has ended and returns how. Returns nothing if the deadline passes first.
    std::optional<Outcome> wait_ended(Clock::time_point deadline) const;
    /// Calls MachineService::run_ended, if there is a machine.
    void run_ended();

    [[nodiscard]] std::string id() const override { return options_.id; }
    [[nodiscard]] ServiceState state() const override;
    [[nodiscard]] std::string pause_reason() const override;
    [[nodiscard]] ServiceStats stats() const override;
    [[nodiscard]] Result<MachineConfig> config() const override;
    [[nodiscard]] Result<std::vector<std::uint64_t>> disk_bytes() const override;
    Result<std::uint64_t> resize_disk(const DiskResize& request) override;
    Status pause() override;
    Status resume() override;
    Result<SnapshotReport> snapshot(const SnapshotRequest& request) override;
    Status start_snapshot(const SnapshotRequest& request) override;
    [[nodiscard]] SnapshotStatus snapshot_status() const override;
    Status cancel_snapshot() override;
    Result<DetachReport> detach() override;
    Result<LayerTaken> take_layer(const LayerRequest& request) override;
    [[nodiscard]] Result<BalloonStatus> balloon() const override;
    Status set_balloon(std::uint64_t bytes) override;
    Status set_balloon_polling(std::uint16_t seconds) override;
    Result<BalloonReport> balloon_statistics() override;
    Result<Outcome> stop(const StopRequest& request) override;
    /// Waits for the machine first.
    Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) override;
    [[nodiscard]] Result<const Console*> terminal() const override;
    Status resize_terminal(TerminalSize size) override;
    std::size_t send_input(std::span<const std::uint8_t> bytes, Clock::time_point deadline) override;

private:
    /// The right to give the instance its machine. One exists at a time.
    class Vacancy;
    Status take(std::unique_ptr<Machine> machine, bool run, bool track);
    Result<Outcome> stop_run(const StopRequest& request);
    [[nodiscard]] MachineService* find() const;
    [[nodiscard]] Result<MachineService*> service() const;

    const InstanceOptions options_;
    Stopwatch uptime_;
    mutable std::mutex mutex_;  ///< guards all below; no other lock is taken under it
    mutable std::condition_variable changed_;
    bool filling_ = false;            ///< a machine is being built
    std::optional<Outcome> outcome_;  ///< of a run that has ended without a machine
    // Both are set once, together, and stay. The service is destroyed first.
    std::unique_ptr<Machine> machine_;
    std::unique_ptr<MachineService> service_;
};

}  // namespace snapvm
