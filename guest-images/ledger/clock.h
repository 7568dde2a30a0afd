// SPDX-License-Identifier: Apache-2.0
// Reads kvmclock at CPL 3, from one structure for each vCPU, and derives the TSC's rate from it.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Registers this vCPU's structure with KVM, if the hypervisor is KVM. It runs after READY, because
// it costs two CPUID exits and a call.
void register_clock();
// Returns kvmclock in nanoseconds, 0 if there is none. Counts in self().clock_backwards if it went
// backwards.
u64 read_clock();
// Returns a time in TSC cycles, 0 if the TSC's rate is not known.
u64 nanoseconds_to_tsc(u64 ns);

// Returns the nanoseconds that kvmclock has moved since rebase_clock(), less those that the TSC
// has. The result is negative after a pause that the TSC counted and kvmclock did not. Only the
// first vCPU calls it.
std::int64_t clock_skew();
void rebase_clock();

}  // namespace snapvm::guest
