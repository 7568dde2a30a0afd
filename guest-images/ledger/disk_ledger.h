// SPDX-License-Identifier: Apache-2.0
// The ledger's records on a virtio disk, written by the first vCPU as it steps (ledger_disk_format.h has layout and order). All of it is
// that vCPU's; without `disk=1` none of it does anything.
#pragma once

#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// After READY, before the first step. Ends the guest where there is no disk, or one that is too small or read-only.
void start_disk(const Options& options);
// Whether the next step may be made: its record has a place in the window.
bool disk_has_room();
// The first shard has just made a step.
void record_step();
// Takes note of what the disk has done, and goes on from there. To be called before halt(): an interrupt follows when there is more.
void serve_disk();
// Waits for what is on its way, reads all blocks back and checks them.
ledger::Finding check_disk();
// Records that were submitted.
u64 disk_records();

}  // namespace snapvm::guest
