// SPDX-License-Identifier: Apache-2.0
// A machine into an area.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/area_path.h"
#include "snapshot/io.h"
#include "snapshot/monitor.h"
#include "snapshot/page_sink.h"
#include "snapshot/pins.h"
#include "snapshot/source.h"
#include "vmm/base/error.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

class SnapshotHistory;

/// What page data leaves in the host's page cache. `cached`: all of it, so that a restore right afterwards finds it in memory. `direct`:
/// none (O_DIRECT where the file allows it), so that nothing else is driven out. `automatic`: cached while it is small beside the
/// memory that is free (DECISIONS.md, "Page cache").
enum class CachePolicy : std::uint8_t { automatic, cached, direct };

/// How much of the guest's time a snapshot takes.
enum class SnapshotMode : std::uint8_t {
    live,  ///< rounds while the guest runs, later ones into memory; the pause depends on neither disk nor guest
    precopy,  ///< rounds while the guest runs, all onto the disk, the last one too
    stop,  ///< the guest stands for the whole of it
};

/// How much of memory is written.
enum class SnapshotType : std::uint8_t {
    automatic,  ///< what changed, where that is known, else all
    full,
    diff,  ///< what changed; an error where that is not known
};

/// What is done when the guest writes faster than rounds copy, or the staging memory is full.
enum class WhenDiverging : std::uint8_t {
    protect,  ///< what is left is write-protected at the pause and copied before its first write; where that is refused, throttle
    throttle,  ///< the guest runs for a part of the time only, less and less; if that does not do, stop
    stop,  ///< the guest stands until the rest is on the disk
    cancel,  ///< the snapshot fails, the guest is unharmed
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

struct LiveOptions {
    std::chrono::microseconds max_pause{1000};  ///< what the copying of the last round may take
    std::uint64_t threshold_bytes = 0;  ///< so little left ends the rounds in any case; 0: max_pause alone decides
    std::optional<std::uint64_t> staging_bytes;  ///< nothing: a quarter of guest memory
    WhenDiverging when_diverging = WhenDiverging::protect;
    std::uint32_t max_rounds = 30;
};

struct WriteOptions {
    std::uint32_t slots = 1;  ///< of a file that does not exist yet; an area that exists keeps its own
    bool keep_frozen = false;  ///< after success the machine stays frozen; after a failure it runs on all the same
    std::string metadata;  ///< the caller's own JSON, 64 KiB at most
    CachePolicy cache = CachePolicy::automatic;
    SinkBackend backend = SinkBackend::automatic;
    SnapshotMode mode = SnapshotMode::live;
    LiveOptions live;
    SnapshotType type = SnapshotType::automatic;
    /// What earlier calls for this machine have left; without it nothing is known of what changed.
    SnapshotHistory* history = nullptr;
    /// So many bytes at most of what the guest has free already are taken from it before, and given back to it after the pause and after
    /// every restore; nothing: none. A guest that has none, or does not answer, is no error.
    std::optional<std::uint64_t> release_free = {};
    /// Goes on tracking afterwards, for the next snapshot into the same area. Costs the guest a fault for each page it then writes first.
    bool track = false;
    SnapshotMonitor* monitor = nullptr;  ///< must outlive the call
    MachineNames names;  ///< for the refusal of an area that machines map
    IoHook hook;  ///< for tests
};

/// One pass over pages.
struct SnapshotRound {
    std::uint64_t dirty_pages = 0;  ///< looked at: all of memory in the first, what was written meanwhile in the others
    std::uint64_t written_bytes = 0;  ///< of page data, onto the disk; 0 where they went into staging memory
    std::uint64_t us = 0;
};

/// What `snapvm snapshot --json` prints (design.md, "JSON of a snapshot"), and what the area got.
struct SnapshotReport {
    /// From the first vCPU asked to stop to the last one on its way back into KVM_RUN; of all pauses, where one was in vain.
    std::uint64_t pause_us = 0;
    std::uint64_t released_bytes = 0;  ///< WriteOptions::release_free
    std::uint64_t release_us = 0;
    std::uint64_t quiesce_us = 0;  ///< before that, while the guest ran: what its devices took to end what they had begun
    std::uint64_t total_us = 0;
    std::vector<SnapshotRound> rounds;
    std::array<std::uint64_t, kPageClassCount> pages{};  ///< by PageClass
    std::uint64_t area_bytes = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t staging_peak_bytes = 0;
    std::string tracker = "none";
    std::string type = "full";
    bool diverged = false;
    std::string when_diverging;  ///< what was done about that; empty: nothing had to be
    std::string protect_refused;  ///< why it was not `protect`, where that was asked for and this host or machine cannot
    Uuid snapshot_id;
    std::uint64_t sequence = 0;
    std::uint32_t slot = 0;
    bool cached = false;  ///< page data was left in the page cache
    std::string backend;  ///< "io_uring" or "threads"
};

/// Writes a whole machine into an area. What can be refused is refused before anything else. On every error, being called off included,
/// the machine runs on as before and the area holds what it held before, or says that it is incomplete. One call at a time a machine.
Result<SnapshotReport> write_snapshot(SnapshotSource& source, const AreaPath& path, const WriteOptions& options);

}  // namespace snapvm
