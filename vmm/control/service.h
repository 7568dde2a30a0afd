// SPDX-License-Identifier: Apache-2.0
// What the API can do with an instance, without HTTP and JSON. Instance implements it,
// MachineService for an instance that has its machine, and tests without one.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/virtio/balloon/balloon.h"
#include "snapshot/area/area_path.h"
#include "snapshot/restore/detach.h"
#include "snapshot/write/write_snapshot.h"
#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"
#include "vmm/control/device_overrides.h"
#include "vmm/machine/console.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/outcome.h"

namespace snapvm {

/// The states of an instance. not_started: it has no machine yet. A machine that is there and has
/// not run yet is paused.
enum class ServiceState : std::uint8_t { not_started, running, paused, ended };
/// Returns Firecracker's word "Not started", "Running" or "Paused", or "Ended", which Firecracker
/// does not have.
[[nodiscard]] std::string_view name_of(ServiceState state);
/// Returns the error, of kind usage, of what cannot be done in this state. `outcome` says how an
/// instance that has ended did so.
[[nodiscard]] Error wrong_state(ServiceState state, const std::optional<Outcome>& outcome);

/// How the machine in a snapshot is restored.
struct RestoreRequest {
    AreaPath area;
    bool share = false;  ///< RestoreOptions::share
    GapMode gap = GapMode::hidden;
    DeviceOverrides devices = {};
    std::optional<std::uint64_t> max_memory_bytes = {};  ///< nothing: as much as the host has
    bool trust_paths = false;  ///< use whatever the snapshot names on this host (host_resources.h)
};

/// A snapshot that an instance without a machine is to load.
struct LoadRequest {
    RestoreRequest restore;
    bool resume = false;  ///< run the machine; else it is paused
    bool track = false;   ///< the machine's snapshots are made with SnapshotRequest::track
};

/// The machine's state after a snapshot. `as_before`: running if it ran, paused if it was paused.
enum class AfterSnapshot : std::uint8_t { as_before, run, pause, stop };

struct SnapshotRequest {
    AreaPath area;
    AfterSnapshot then = AfterSnapshot::as_before;
    CachePolicy cache = CachePolicy::automatic;
    std::string metadata;  ///< JSON text, empty for none
    SnapshotMode mode = SnapshotMode::live;
    SnapshotType type = SnapshotType::automatic;
    bool track = false;
    std::optional<std::uint64_t> release_free = {};  ///< WriteOptions::release_free
    LiveOptions live;
};

/// The progress of the running snapshot, or the result of the last one.
struct SnapshotStatus {
    std::optional<SnapshotPhase> phase;  ///< nothing: there was none
    std::uint32_t round = 0;
    std::uint64_t round_pages = 0;
    std::uint64_t round_done = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t staged_bytes = 0;
    std::uint64_t elapsed_us = 0;
    std::optional<SnapshotReport> report;  ///< of a snapshot that succeeded
    std::optional<Error> error;            ///< of a snapshot that failed
};

struct StopRequest {
    bool force = false;                        ///< calls a snapshot or a detach off, and ends the run at once
    /// How long to wait in all: for a running snapshot to end, then for the guest to power off.
    std::chrono::milliseconds timeout{5'000};
};

enum class WaitFor : std::uint8_t { ready, exit, serial };
[[nodiscard]] std::string_view name_of(WaitFor what);

struct WaitRequest {
    WaitFor what = WaitFor::ready;
    std::string regex;  ///< for `serial`: ECMAScript, matched line by line (line_matcher.h)
    std::chrono::milliseconds timeout{30'000};
};

/// The event that a wait ended with. The field that belongs to `what` is set.
struct WaitResult {
    WaitFor what = WaitFor::ready;
    std::uint32_t ready_value = 0;
    std::string line;  ///< the line that matched, without its line end
    Outcome outcome;
};

/// The numbers that `stats` and `ps` show.
struct ServiceStats {
    std::string id;
    ServiceState state = ServiceState::not_started;
    std::string pause_reason;  ///< Service::pause_reason
    std::uint32_t pid = 0;
    std::uint64_t uptime_us = 0;  ///< of the machine; of the instance if it has none
    std::uint64_t memory_bytes = 0;
    std::uint32_t cpus = 0;  ///< 0: there is no machine
    std::uint64_t exits = 0;
    bool ready = false;
    std::uint32_t ready_value = 0;
    std::uint32_t mark = 0;
    std::uint64_t marks = 0;
    bool crash_loaded = false;  ///< the guest has panicked, and its crash kernel runs
    std::uint64_t serial_bytes = 0;
    std::vector<NetworkStats> networks;
    std::vector<PartCounters> counters;
    std::optional<SnapshotReport> snapshot;  ///< the last one that succeeded
    std::optional<Outcome> outcome;
};

/// The balloon's sizes, and the guest's last statistics of its memory.
struct BalloonReport {
    BalloonStatus balloon;
    virtio::BalloonStatistics statistics;
};

/// A layer that is to be taken of a disk.
struct LayerRequest {
    std::string disk;       ///< its id
    std::string tag;
    std::string into = {};  ///< the path of the overlay; empty: Machine::take_layer chooses it
};

/// Called repeatedly by functions that wait. They return early if it returns true.
using GivenUp = std::function<bool()>;

struct TerminalSize {
    std::uint16_t columns = 0;
    std::uint16_t rows = 0;
};

/// A disk that is to become larger.
struct DiskResize {
    std::string id;
    std::optional<std::uint64_t> bytes = {};  ///< nothing: a block device's size of now
};

/// The functions of one instance. Several threads may call them at once. An error of a kind other
/// than `system` is the caller's fault. Functions that need a machine fail with wrong_state() if
/// there is none.
class Service {
public:
    virtual ~Service() = default;

    [[nodiscard]] virtual std::string id() const = 0;
    [[nodiscard]] virtual ServiceState state() const = 0;
    /// Returns why the machine has paused itself (Machine::pause_reason); an empty string if it has
    /// not.
    [[nodiscard]] virtual std::string pause_reason() const = 0;
    [[nodiscard]] virtual Result<MachineConfig> config() const = 0;
    /// Returns the sizes of the disks, in the configuration's order.
    [[nodiscard]] virtual Result<std::vector<std::uint64_t>> disk_bytes() const = 0;
    /// Makes a disk larger, tells the guest, and returns the new size in bytes. Waits for a freeze
    /// of the machine to end, 30 s at most. Fails as Machine::resize_disk() does.
    virtual Result<std::uint64_t> resize_disk(const DiskResize& request) = 0;
    [[nodiscard]] virtual ServiceStats stats() const = 0;
    /// Gives the instance the machine in a snapshot. Fails with usage if it has a machine or has
    /// ended, with busy while another snapshot is loaded, and like a restore. After an error the
    /// instance has no machine, as before.
    virtual Status load(const LoadRequest& request) = 0;

    /// Pause and resume the machine; do nothing if it is paused, or runs. Fail with usage if its
    /// run has ended.
    virtual Status pause() = 0;
    virtual Status resume() = 0;
    /// Makes a snapshot and returns when it has ended. Fails with unsupported if the machine has an
    /// ephemeral disk; the area is not opened then. Fails with busy while another one or a
    /// detach runs.
    virtual Result<SnapshotReport> snapshot(const SnapshotRequest& request) = 0;
    /// Begins a snapshot in the background. Fails with busy like snapshot(). snapshot_status()
    /// tells its result.
    virtual Status start_snapshot(const SnapshotRequest& request) = 0;
    [[nodiscard]] virtual SnapshotStatus snapshot_status() const = 0;
    /// Cancels the running snapshot or detach, which then fails with cancelled. Fails with usage if
    /// none runs.
    virtual Status cancel_snapshot() = 0;
    /// Detaches the machine from the snapshot that it maps, while the guest runs. Does nothing if
    /// it maps none. Fails with busy while a snapshot or another detach runs.
    virtual Result<DetachReport> detach() = 0;
    /// Takes a layer of a disk while the guest runs (Machine::take_layer). Fails with busy while a
    /// snapshot, a detach or another layer is under way.
    virtual Result<LayerTaken> take_layer(const LayerRequest& request) = 0;
    /// The balloon functions fail with usage if the machine has no balloon.
    [[nodiscard]] virtual Result<BalloonStatus> balloon() const = 0;
    virtual Status set_balloon(std::uint64_t bytes) = 0;
    /// Sets how often the guest is asked for statistics, in seconds. 0: only by
    /// balloon_statistics().
    virtual Status set_balloon_polling(std::uint16_t seconds) = 0;
    /// Returns the guest's last statistics if it is polled. Otherwise asks the guest and waits for
    /// its answer for a moment.
    virtual Result<BalloonReport> balloon_statistics() = 0;
    /// Ends the run and returns how it ended, which may have been earlier. Unless forced, it
    /// presses the power button first, if the guest listens to it.
    virtual Result<Outcome> stop(const StopRequest& request) = 0;
    /// Waits for an event, and for the machine before. Returns nothing at the timeout, or if
    /// `given_up` returns true. Fails with usage if the event cannot come any more, since the run
    /// has ended.
    virtual Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) = 0;

    /// Returns the output of the line that users type on: the serial port's, or the virtio
    /// console's. It stays valid as long as the service.
    [[nodiscard]] virtual Result<const Console*> terminal() const = 0;
    /// Sets the terminal's size in characters. Only a virtio console reports it to the guest.
    virtual Status resize_terminal(TerminalSize size) = 0;
    /// Sends typed bytes to the terminal. Returns how many the guest's device took before the
    /// deadline. Without a machine that is none, at once.
    virtual std::size_t send_input(std::span<const std::uint8_t> bytes,
                                   std::chrono::steady_clock::time_point deadline) = 0;
};

}  // namespace snapvm
