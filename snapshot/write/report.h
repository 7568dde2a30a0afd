// SPDX-License-Identifier: Apache-2.0
// The result of a snapshot.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "snapshot/area/area_identity.h"
#include "vmm/config/machine_config.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

/// One round: a pass over pages.
struct SnapshotRound {
    std::uint64_t dirty_pages = 0;  ///< pages looked at: all in the first round, those written meanwhile in later ones
    std::uint64_t written_bytes = 0;  ///< bytes of page data put; 0 if the round went into staging memory
    std::uint64_t us = 0;
};

/// What `snapvm snapshot --json` prints.
struct SnapshotReport {
    /// Time from the moment the first vCPU was asked to stop until the last one is on its way back
    /// into KVM_RUN; the sum, if there was more than one pause.
    std::uint64_t pause_us = 0;
    std::uint64_t released_bytes = 0;  ///< taken by WriteOptions::release_free
    std::uint64_t release_us = 0;
    /// Time for which the devices were quiesced before the freeze, while the guest ran.
    std::uint64_t quiesce_us = 0;
    std::uint64_t total_us = 0;
    std::vector<SnapshotRound> rounds;
    std::array<std::uint64_t, kPageClassCount> pages{};  ///< by PageClass
    std::uint64_t area_bytes = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t staging_peak_bytes = 0;
    std::string tracker = "none";
    std::string type = "full";
    bool diverged = false;
    std::string when_diverging;  ///< what was done about it; empty if nothing had to be done
    /// Why `protect` was not used, if it was asked for and this host or machine does not support
    /// it.
    std::string protect_refused;
    Uuid snapshot_id;
    AreaIdentity area;
    std::uint64_t sequence = 0;
    std::uint32_t slot = 0;
    /// Why what the machine's devices use of the host is not written down, so that a restore will
    /// ask for it (vmm/control/snapshot_records.h); empty if it is.
    std::string unrecorded;
    bool cached = false;  ///< page data went through the page cache
    std::string backend;  ///< "io_uring" or "threads"
    std::string lost;  ///< which snapshot of the area was damaged and is overwritten; empty if none
};

}  // namespace snapvm
