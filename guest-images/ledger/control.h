// SPDX-License-Identifier: Apache-2.0
// Lets the first vCPU stop the others at a step boundary, has all shards checked in parallel, and
// lets them go on.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Every vCPU but the first calls this at each step boundary. Returns true if the vCPU may step.
// Otherwise it has done what was asked (stopped, checked its shard); the caller then halts until an
// interrupt and calls again.
bool may_step(u32 shard);

// The first vCPU calls this at a step boundary of its own. Stops all vCPUs, verifies all shards,
// lets all go on, and returns the first finding, if any.
ledger::Finding verify_all();

// Waits on the first vCPU until `condition` holds; the vCPU that fulfils it calls wake_first().
// Spins before it sleeps. It does not spin for long: if vCPUs outnumber the host's CPUs, the other
// vCPU may need this one's CPU.
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
