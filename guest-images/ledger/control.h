// SPDX-License-Identifier: Apache-2.0
// How the first vCPU stops the others at a step boundary, has all shards checked in parallel, and lets them go.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// For every vCPU but the first, at each step boundary: true if it may step; otherwise it has done what was asked
// (stopped, checked its shard) and should sleep until an interrupt and ask again.
bool may_step(u32 shard);

// For the first vCPU, at a step boundary of its own. Stops all, verifies all, lets all go on; the first finding, if
// any.
ledger::Finding verify_all();

// Waits on the first vCPU for what another one does, which then calls wake_first(). Looks for a while before it sleeps:
// where vCPUs outnumber the host's CPUs, the one that is waited for may need this one's.
template <typename Condition>
void wait_for(Condition condition) {
    for (u32 i = 0; i < 2000; ++i) {
        if (condition()) return;
        pause();
    }
    for (;;) {
        const u64 events = self().events;
        if (condition()) return;
        halt(events);
    }
}

void set_paused(bool paused);
bool paused();

}  // namespace snapvm::guest
