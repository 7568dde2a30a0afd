// SPDX-License-Identifier: Apache-2.0
// Places the ledger in the machine's RAM: the root page, and the segments of the working set.
#pragma once

#include "guest-images/ledger/boot_info.h"
#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// The root page, at ledger::kRootAddress.
extern "C" ledger::Root ledger_root;

// Fills in the root and maps what it names; seal_root() adds checksum and state after the pages are
// initialised. Headers, index and the lower half of the working set follow the image; the other
// half is above 4 GiB if there is RAM. Ends the guest if memory does not suffice. Only a default
// working set is cut to fit.
void lay_out_ledger(const BootInfo& boot, const Options& options, u32 shards);

// Takes whole pages of the memory that the ledger leaves, and maps them. They stay taken for as
// long as the guest runs. Ends the guest with `why` if there are none. Only the first vCPU calls
// it.
u64 take_memory(u64 bytes, const char* why);

}  // namespace snapvm::guest
