// SPDX-License-Identifier: Apache-2.0
// Detaches a restored machine from the snapshot that it maps, while it runs.
#pragma once

#include <cstdint>
#include <string>

#include "snapshot/source/monitor.h"
#include "snapshot/source/source.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// The result of a detach.
struct DetachReport {
    bool mapped = false;              ///< false: the machine mapped no snapshot
    std::uint64_t read_pages = 0;     ///< pages read from the snapshot
    std::uint64_t copied_pages = 0;   ///< the machine's own pages, copied while it was frozen
    std::uint64_t freezes = 0;        ///< one for each 2 MiB that were moved
    std::uint64_t longest_freeze_us = 0;
    std::uint64_t total_us = 0;
};

/// Copies what `memory`, the memory of `machine`, still maps from its snapshot into memory of the
/// machine's own, in units of 2 MiB. The snapshot's pages are read while the guest runs, and their
/// checksums are verified. The guest's own pages are copied while it is frozen, for each unit anew.
/// Then nothing maps the snapshot any more, and its pin is gone. In the end it takes as much more
/// host memory as the snapshot has data. Huge pages are advised again as `config` says.
///
/// No snapshot may be taken meanwhile, nor may anything else read the layout of the memory. The
/// guest and the devices run on.
///
/// `monitor`, if given, shows the progress as one round and can cancel the detach.
///
/// Fails with invalid if a page of the snapshot is damaged, with system if a read or an allocation
/// fails, with usage if the machine has ended, with busy if a disk does not complete its requests,
/// and with cancelled. After an error the machine runs on as before, still pinned, and the call can
/// be repeated.
Result<DetachReport> detach_snapshot(SnapshotSource& machine, GuestMemory& memory, SnapshotMonitor* monitor = nullptr);

[[nodiscard]] std::string to_json(const DetachReport& report);

}  // namespace snapvm
