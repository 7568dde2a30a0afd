// SPDX-License-Identifier: Apache-2.0
// The ledger's records on a virtio disk, which the first vCPU writes as it steps
// (ledger_disk_format.h has layout and order). Only that vCPU calls these functions. Without
// `disk=1` they do nothing.
#pragma once

#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// Finds the disk and starts to use it. It is called after READY and before the first step. Ends the
// guest if there is no disk, or if the disk is too small or read-only.
void start_disk(const Options& options);
// Returns whether the next step may be made: its record has a place in the window.
bool disk_has_room();
// Writes a record if one is due. The first shard calls it after each of its steps.
void record_step();
// Handles what the disk has done, and flushes if a window is complete. The caller calls it before
// halt(): an interrupt follows if there is more.
void serve_disk();
// Waits for all requests in flight, reads all blocks back and checks them.
ledger::Finding check_disk();
// Returns the number of records submitted.
u64 disk_records();

}  // namespace snapvm::guest
