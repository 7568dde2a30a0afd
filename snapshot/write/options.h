// SPDX-License-Identifier: Apache-2.0
// The options of a snapshot.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "snapshot/area/area_io.h"
#include "snapshot/area/pins.h"
#include "snapshot/source/monitor.h"
#include "vmm/io/engine.h"

namespace snapvm {

class SnapshotHistory;

/// What page data leaves in the host's page cache. `cached`: all of it, so that a restore right
/// afterwards finds it in memory. `direct`: nothing (O_DIRECT, if the file allows it), so that
/// other data stays in the cache. `automatic`: cached if it is small compared with the free memory
/// (DECISIONS.md, "Page cache").
enum class CachePolicy : std::uint8_t { automatic, cached, direct };

/// When the guest is stopped, and what for.
enum class SnapshotMode : std::uint8_t {
    live,  ///< rounds while the guest runs, later ones into memory; the pause waits for neither disk nor guest
    precopy,  ///< rounds while the guest runs, all to the disk; the last one, in the pause, too
    stop,  ///< the guest stands still for the whole snapshot
};

/// Which part of memory is written.
enum class SnapshotType : std::uint8_t {
    automatic,  ///< what changed, if that is known; else everything
    full,
    diff,  ///< what changed; fails with usage if that is not known
};

/// What happens if the guest writes faster than rounds copy, or if the staging memory is full.
enum class WhenDiverging : std::uint8_t {
    /// write-protects what is left at the pause and copies each page before its first write;
    /// throttle if that is refused
    protect,
    throttle,  ///< lets the guest run for a shrinking part of the time; stop if that does not help
    stop,  ///< stops the guest until the rest is on the disk
    cancel,  ///< the snapshot fails; the guest runs on
};

[[nodiscard]] constexpr std::string_view name_of(WhenDiverging what) {
    switch (what) {
        case WhenDiverging::protect: return "protect";
        case WhenDiverging::throttle: return "throttle";
        case WhenDiverging::stop: return "stop";
        case WhenDiverging::cancel: return "cancel";
    }
    return "cancel";
}

/// Options of modes live and precopy.
struct LiveOptions {
    std::chrono::microseconds max_pause{1000};  ///< how long the copy of the last round may take
    std::uint64_t threshold_bytes = 0;  ///< the rounds end with at most this much left; 0: max_pause alone decides
    std::optional<std::uint64_t> staging_bytes;  ///< size of the staging memory; by default a quarter of guest memory
    WhenDiverging when_diverging = WhenDiverging::protect;
    std::uint32_t max_rounds = 30;  // at this number the rounds end, or when_diverging applies
};

struct WriteOptions {
    std::uint32_t slots = 1;  ///< of a file that does not exist yet; an existing area keeps its own number
    bool keep_frozen = false;  ///< leaves the machine frozen after success; after a failure it runs on all the same
    std::string metadata;  ///< the caller's own bytes (JSON), at most 64 KiB
    CachePolicy cache = CachePolicy::automatic;
    io::EngineKind engine = io::EngineKind::automatic;  ///< carries out the writes of page data
    SnapshotMode mode = SnapshotMode::live;
    LiveOptions live;
    SnapshotType type = SnapshotType::automatic;
    /// What earlier calls for this machine have left. Without it every snapshot is a full one.
    SnapshotHistory* history = nullptr;
    /// Takes at most this many bytes of memory that the guest has free before the snapshot. The
    /// guest gets them back after the pause, and after every restore. Nothing is taken by default.
    /// It is no error if the guest has none free or does not answer.
    std::optional<std::uint64_t> release_free = {};
    /// Keeps tracking afterwards, for the next snapshot into the same area. The guest then takes a
    /// fault for the first write to each page.
    bool track = false;
    SnapshotMonitor* monitor = nullptr;  ///< must outlive the call
    MachineNames names;  ///< name the machines if an area is refused that they map
    IoHook hook;  ///< for tests
};

}  // namespace snapvm
