// SPDX-License-Identifier: Apache-2.0
// The ledger at work: one shard a vCPU, written by that vCPU alone (ledger_format.h has layout and order of stores).
#pragma once

#include "guest-images/ledger/layout.h"

namespace snapvm::guest {

// Writes every page, index entry and the header of a shard.
void initialise_shard(u32 shard);
// Call when all shards are initialised.
void seal_root();
// One update.
void step(u32 shard, const Options& options);
// The next kStirBurst writes to the shard's stirred share.
void stir(u32 shard);

ledger::ShardHeader& shard_header(u32 shard);
u64 committed_steps(u32 shard);
u64 total_steps();

// Checks a shard while all of them stand still.
ledger::Finding check_shard(u32 shard);

}  // namespace snapvm::guest
