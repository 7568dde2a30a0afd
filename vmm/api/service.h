// SPDX-License-Identifier: Apache-2.0
// What the API can do to a machine, apart from HTTP and JSON. MachineService does it to a real one, tests to none.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "devices/virtio/balloon/balloon.h"
#include "snapshot/area_path.h"
#include "snapshot/detach.h"
#include "snapshot/writer.h"
#include "vmm/base/error.h"
#include "vmm/machine/config.h"
#include "vmm/machine/console.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/outcome.h"

namespace snapvm::api {

/// The program's version, as `GET /version` and `--version` show it.
[[nodiscard]] std::string_view snapvm_version();

enum class ServiceState : std::uint8_t { not_started, running, paused, ended };
/// Firecracker's words: "Not started", "Running", "Paused"; ours: "Ended".
[[nodiscard]] std::string_view name_of(ServiceState state);

/// What a snapshot leaves the machine doing. `as_before`: running if it ran, paused if it was paused.
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

/// How far the snapshot that is being made is, or how the last one ended.
struct SnapshotStatus {
    std::optional<SnapshotPhase> phase;  ///< nothing: there has been none
    std::uint32_t round = 0;
    std::uint64_t round_pages = 0;
    std::uint64_t round_done = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t staged_bytes = 0;
    std::uint64_t elapsed_us = 0;
    std::optional<SnapshotReport> report;  ///< of one that went well
    std::optional<Error> error;            ///< of one that did not
};

struct StopRequest {
    bool force = false;                        ///< end it at once, without the two below
    std::chrono::milliseconds timeout{5'000};  ///< for a snapshot that is being written, then for the guest to power off
};

enum class WaitFor : std::uint8_t { ready, exit, serial };
[[nodiscard]] std::string_view name_of(WaitFor what);

struct WaitRequest {
    WaitFor what = WaitFor::ready;
    std::string regex;  ///< for `serial`: ECMAScript, matched line by line (line_matcher.h)
    std::chrono::milliseconds timeout{30'000};
};

/// What was waited for has happened; the field that belongs to `what` is set.
struct WaitResult {
    WaitFor what = WaitFor::ready;
    std::uint32_t ready_value = 0;
    std::string line;  ///< the line that matched, without its line end
    Outcome outcome;
};

/// What `stats` and `ps` show.
struct ServiceStats {
    std::string id;
    ServiceState state = ServiceState::not_started;
    std::uint32_t pid = 0;
    std::uint64_t uptime_us = 0;  ///< since the service was made
    std::uint64_t memory_bytes = 0;
    std::uint32_t cpus = 0;
    std::uint64_t exits = 0;
    bool ready = false;
    std::uint32_t ready_value = 0;
    std::uint32_t mark = 0;
    std::uint64_t marks = 0;
    bool crash_loaded = false;  ///< the guest has panicked, and its crash kernel runs
    std::uint64_t serial_bytes = 0;
    std::vector<NetworkStats> networks;
    std::optional<SnapshotReport> snapshot;  ///< of the last one that went well
    std::optional<Outcome> outcome;
};

/// The balloon's sizes, and what the guest said last of its memory.
struct BalloonReport {
    BalloonStatus balloon;
    virtio::BalloonStatistics statistics;
};

/// Asked now and then by calls that wait; true makes them return early.
using GivenUp = std::function<bool()>;

struct TerminalSize {
    std::uint16_t columns = 0;
    std::uint16_t rows = 0;
};

/// All functions may be called from several threads at once. Errors that are the caller's fault have a kind other than `system`.
class Service {
public:
    virtual ~Service() = default;

    [[nodiscard]] virtual std::string id() const = 0;
    [[nodiscard]] virtual ServiceState state() const = 0;
    [[nodiscard]] virtual const MachineConfig& config() const = 0;
    [[nodiscard]] virtual ServiceStats stats() const = 0;

    /// Both idempotent; an error once the machine has ended.
    virtual Status pause() = 0;
    virtual Status resume() = 0;
    /// One at a time: `busy` while another is being written.
    virtual Result<SnapshotReport> snapshot(const SnapshotRequest& request) = 0;
    /// The same in the background, under the same lock: how it ends is in snapshot_status.
    virtual Status start_snapshot(const SnapshotRequest& request) = 0;
    [[nodiscard]] virtual SnapshotStatus snapshot_status() const = 0;
    /// Calls off the snapshot that is being made; its maker gets the error. usage when there is none.
    virtual Status cancel_snapshot() = 0;
    /// Lets go of the snapshot that this machine was restored from, behind the guest; nothing to do where it maps none. busy while one is made.
    virtual Result<DetachReport> detach() = 0;
    /// Of a machine with a balloon; usage where there is none.
    [[nodiscard]] virtual Result<BalloonStatus> balloon() const = 0;
    virtual Status set_balloon(std::uint64_t bytes) = 0;
    /// How often the guest is asked for statistics; 0: by the next function.
    virtual Status set_balloon_polling(std::uint16_t seconds) = 0;
    /// What the guest said last, where it is polled; else it is asked anew and waited for a moment.
    virtual Result<BalloonReport> balloon_statistics() = 0;
    /// Ends the machine, unless forced by its power button if the guest listens to it; how it ended (which may have been earlier, by itself).
    virtual Result<Outcome> stop(const StopRequest& request) = 0;
    /// Nothing when the time is over, or `given_up` says so. An error when it cannot come any more: the machine ended first.
    virtual Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) = 0;

    /// The serial port's output.
    [[nodiscard]] virtual const Console& console() const = 0;
    /// Of the line that a user talks to: the serial port's too, or the virtio console's.
    [[nodiscard]] virtual const Console& terminal() const { return console(); }
    /// Its size in characters, for a guest that can tell.
    virtual void resize_terminal(TerminalSize size) { (void)size; }
    /// Bytes that are typed there; how many of them went in before the deadline.
    virtual std::size_t send_input(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline) = 0;
};

}  // namespace snapvm::api
