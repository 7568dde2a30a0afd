// SPDX-License-Identifier: Apache-2.0
// Where the ledger lies: the root page and the segments of the working set over the machine's RAM.
#pragma once

#include "guest-images/ledger/boot_info.h"
#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// At ledger::kRootAddress.
extern "C" ledger::Root ledger_root;

// Fills in the root (checksum and state come when the pages are initialised), and maps what it names. Headers, index
// and the lower half of the working set come right after the image; the other half above 4 GiB, if there is RAM. Ends
// the guest if memory does not suffice; only a default working set is cut to fit.
void lay_out_ledger(const BootInfo& boot, const Options& options, u32 shards);

// Whole pages of what the ledger has left, mapped, for as long as the guest runs; ends it with `why` if there are none. First vCPU only.
u64 take_memory(u64 bytes, const char* why);

}  // namespace snapvm::guest
