// SPDX-License-Identifier: Apache-2.0
// A machine into an area.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "snapshot/area_path.h"
#include "snapshot/io.h"
#include "snapshot/page_sink.h"
#include "snapshot/source.h"
#include "vmm/base/error.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

/// What page data leaves in the host's page cache. `cached`: all of it, so that a restore right afterwards finds it in memory. `direct`:
/// none (O_DIRECT where the file allows it), so that nothing else is driven out. `automatic`: cached while it is small beside the
/// memory that is free (DECISIONS.md, "Page cache").
enum class CachePolicy : std::uint8_t { automatic, cached, direct };

struct WriteOptions {
    std::uint32_t slots = 1;  ///< of a file that does not exist yet; an area that exists keeps its own
    bool keep_frozen = false;  ///< after success the machine stays frozen; after a failure it runs on all the same
    std::string metadata;  ///< the caller's own JSON, 64 KiB at most
    CachePolicy cache = CachePolicy::automatic;
    SinkBackend backend = SinkBackend::automatic;
    IoHook hook;  ///< for tests
};

/// One pass over pages.
struct SnapshotRound {
    std::uint64_t dirty_pages = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t us = 0;
};

/// What `snapvm snapshot --json` prints (design.md, "JSON of a snapshot"), and what the area got.
struct SnapshotReport {
    std::uint64_t pause_us = 0;  ///< the machine was frozen
    std::uint64_t total_us = 0;
    std::vector<SnapshotRound> rounds;
    std::array<std::uint64_t, kPageClassCount> pages{};  ///< by PageClass
    std::uint64_t area_bytes = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t staging_peak_bytes = 0;
    std::string tracker = "none";
    std::string type = "full";
    bool diverged = false;
    Uuid snapshot_id;
    std::uint64_t sequence = 0;
    std::uint32_t slot = 0;
    bool cached = false;  ///< page data was left in the page cache
    std::string backend;  ///< "io_uring" or "threads"
};

/// Freezes the machine, writes all of it, makes it valid, and thaws it (mode stop). What can be refused is refused before the freeze. On
/// every error the machine is thawed and the area holds what it held before, or says that it is incomplete.
Result<SnapshotReport> write_snapshot(SnapshotSource& source, const AreaPath& path, const WriteOptions& options);

}  // namespace snapvm
