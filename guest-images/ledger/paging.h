// SPDX-License-Identifier: Apache-2.0
// Maps memory identically by 2 MiB pages, from CPL 3, and only what is used. The entry code has
// mapped the first GiB and 3 to 4 GiB.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Makes [begin, end) accessible. Only the first vCPU calls it, before the others run. Ends the
// guest if there are no page tables left.
void map_identity(u64 begin, u64 end);
// The end of the addresses that can be mapped.
inline constexpr u64 kMappableEnd = 512ULL << 30;

}  // namespace snapvm::guest
