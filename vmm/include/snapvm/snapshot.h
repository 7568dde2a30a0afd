// SPDX-License-Identifier: Apache-2.0
// What a snapshot is asked for and reports, and what a restore can change. The functions are
// Machine's (machine.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace snapvm::embed {

/// The place of one snapshot: a file or a block device, or a part of one. A file that does not
/// exist is created. A file or device with other contents is refused; `snapvm area create` makes an
/// area of a device. A relative path counts from the current folder of the call.
struct Area {
    std::string path = {};
    std::uint64_t offset = 0;  ///< bytes, a multiple of 4096
};

/// When the guest stands still.
enum class SnapshotMode : std::uint8_t {
    live,     ///< for the state and the last written pages, which are copied to memory (a millisecond or so)
    precopy,  ///< until the last written pages are in the area
    stop,     ///< for the whole snapshot
};

/// Which part of memory is written.
enum class SnapshotType : std::uint8_t {
    automatic,  ///< what changed since the snapshot before, if that is known and in the same area; else everything
    full,       ///< everything
    diff,       ///< what changed; it fails with usage if that is not known
};

/// The machine's state after a snapshot. With `pause` and `stop` the guest executes nothing after
/// the moment of the snapshot.
enum class AfterSnapshot : std::uint8_t {
    as_before,  ///< running if it ran, paused if it was paused
    pause,
    stop,  ///< the run ends, as Outcome::Kind::stopped
};

struct SnapshotOptions {
    SnapshotMode mode = SnapshotMode::live;
    SnapshotType type = SnapshotType::automatic;
    AfterSnapshot then = AfterSnapshot::as_before;
    /// How long the guest may wait for the copy of the last written pages. If it writes faster than
    /// they are copied, the rest is copied after the pause, each page before its next write.
    std::chrono::microseconds max_pause{1000};
    /// Keeps tracking the guest's writes, so that the next snapshot into the same area writes what
    /// changed. The guest pays a fault for its first write to each page.
    bool track = false;
};

/// Pages of 4 KiB by what they hold.
struct PageCounts {
    std::uint64_t absent = 0;   ///< never used
    std::uint64_t zero = 0;     ///< all zeros
    std::uint64_t common = 0;   ///< data
    std::uint64_t shared = 0;   ///< data, equal to that of a lower page
    std::uint64_t balloon = 0;  ///< given back through the balloon
    std::uint64_t free = 0;     ///< reported free by the guest
    std::uint64_t swapped = 0;  ///< in the machine's own swap file
};

/// One pass over the pages.
struct SnapshotRound {
    std::uint64_t pages = 0;          ///< looked at: all in the first round, those written meanwhile in later ones
    std::uint64_t written_bytes = 0;  ///< to the area; 0 if the round was copied to memory
    std::chrono::microseconds time{};
};

/// The result of a snapshot.
struct SnapshotReport {
    /// From the moment the first vCPU was asked to stop until the last one runs again: what the
    /// guest loses.
    std::chrono::microseconds pause{};
    std::chrono::microseconds total{};  ///< until the snapshot is on the disk
    std::vector<SnapshotRound> rounds;
    PageCounts pages;
    std::uint64_t area_bytes = 0;          ///< size of the area
    std::uint64_t written_bytes = 0;       ///< page data and state that were written
    std::uint64_t staging_peak_bytes = 0;  ///< the most memory that held copies of pages
    std::string tracker;                   ///< how writes were tracked: "log", "ring" or "none"
    bool full = true;                      ///< everything was written, not only what changed
    bool diverged = false;                 ///< the guest wrote faster than pages were copied
    /// Why the machine's disks, taps and socket could not be written down for this user; empty if
    /// they were. A restore needs them named then, or trust_paths (RestoreOptions).
    std::string unrecorded;
};

/// What a restored machine has other than the saved one. Only the host's side of a device can
/// change; everything that the guest sees comes from the snapshot.
///
/// A snapshot is untrusted, and so are the paths in it. A restore uses what is named here, and what
/// this user's program wrote down when it took that very snapshot: snapshot() keeps a record in
/// $XDG_STATE_HOME/snapvm or ~/.local/state/snapvm. A disk that was read-only stays so.
struct RestoreOptions {
    std::map<std::string, std::string> disks = {};  ///< another file for a disk: its id, and the path
    std::map<std::string, std::string> taps = {};   ///< another tap for a network interface: its id, and the tap
    std::optional<std::string> vsock_socket = {};   ///< another socket for the vsock
    std::optional<std::uint32_t> vsock_cid = {};    ///< another context id for the guest
    /// The guest's clock shows the time since the snapshot. Otherwise it goes on from where it was.
    bool clock_shows_gap = false;
    /// Keeps pages that hold the same in memory once. The restore then reads all page entries.
    bool share_equal_pages = false;
    /// Uses all disks, taps and sockets that the snapshot names, also if another user took it.
    bool trust_paths = false;
    std::optional<std::uint64_t> max_memory_bytes = {};  ///< the most that the machine may have; by default the host's
};

/// How long a machine took to start.
struct StartTimes {
    std::chrono::microseconds map{};  ///< to map the memory of a snapshot; 0 for a machine that boots
    std::chrono::microseconds state{};  ///< from the call of create() or restore() to the complete machine
    std::chrono::microseconds first_run{};  ///< from the first resume() until the guest had executed an instruction
    std::chrono::microseconds total{};  ///< state + first_run
};

}  // namespace snapvm::embed
