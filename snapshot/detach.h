// SPDX-License-Identifier: Apache-2.0
// Lets a restored machine go of the snapshot that it maps, while it runs.
#pragma once

#include <cstdint>
#include <string>

#include "snapshot/monitor.h"
#include "snapshot/source.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

struct DetachReport {
    bool mapped = false;              ///< false: there was nothing to let go of
    std::uint64_t read_pages = 0;     ///< read from the snapshot
    std::uint64_t copied_pages = 0;   ///< the machine's own, moved while it stood
    std::uint64_t freezes = 0;        ///< one for each 2 MiB
    std::uint64_t longest_freeze_us = 0;
    std::uint64_t total_us = 0;
};

/// Reads what `memory`, that of `machine`, still maps from its snapshot into memory of its own, 2 MiB after 2 MiB: the snapshot's pages while the
/// guest runs, held against their checksums, the guest's own while it stands for that moment. Then nothing maps the snapshot any more, and its
/// pin is gone. Takes as much more host memory as the snapshot has data, in the end.
///
/// Nothing else may read the memory's layout meanwhile (a snapshot); the guest and devices may. Huge pages are advised again as `config` has it.
///
/// `monitor`, where there is one, is told of it as of one round, and can call it off.
///
/// Errors: invalid (a page of the snapshot is damaged), system (reading, memory), usage (the machine has ended), cancelled. The machine then
/// goes on as before, still pinned, and this can be called again.
Result<DetachReport> detach_snapshot(SnapshotSource& machine, GuestMemory& memory, SnapshotMonitor* monitor = nullptr);

[[nodiscard]] std::string to_json(const DetachReport& report);

}  // namespace snapvm
