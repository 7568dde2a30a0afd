// SPDX-License-Identifier: Apache-2.0
// kvmclock, one structure a vCPU, read at CPL 3; and what it says about the TSC's rate.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Registers this vCPU's structure with KVM, if this is KVM. Not before READY: it costs two CPUID exits and a call.
void register_clock();
// Reads kvmclock (0 without one), counts it in self().clock_backwards if it went backwards.
u64 read_clock();
// A time as TSC cycles; 0 if the TSC's rate is not known.
u64 nanoseconds_to_tsc(u64 ns);

// How far kvmclock has moved against the TSC since rebase_clock, in nanoseconds: negative while a machine that was
// paused or restored has made up for the time it did not run. First vCPU only.
std::int64_t clock_skew();
void rebase_clock();

}  // namespace snapvm::guest
