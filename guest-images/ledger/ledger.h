// SPDX-License-Identifier: Apache-2.0
// Works on the ledger: one shard for each vCPU, written by that vCPU alone (ledger_format.h has
// layout and order of stores).
#pragma once

#include "guest-images/ledger/layout.h"

namespace snapvm::guest {

// Writes every page, index entry and the header of a shard.
void initialise_shard(u32 shard);
// Writes the root's checksum and sets its state to ready. It is called after all shards are
// initialised.
void seal_root();
// Makes one step: rewrites one page of the shard.
void step(u32 shard, const Options& options);
// Makes the next kStirBurst writes to the shard's share of the stirred region.
void stir(u32 shard);

ledger::ShardHeader& shard_header(u32 shard);
u64 committed_steps(u32 shard);
u64 total_steps();

// Checks a shard. No vCPU may step meanwhile.
ledger::Finding check_shard(u32 shard);

}  // namespace snapvm::guest
