// SPDX-License-Identifier: Apache-2.0
// Identity mapping by 2 MiB pages, built at CPL 3 (natively), only for what is used. The entry code brings the first
// GiB and 3 to 4 GiB.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Makes [begin, end) accessible. Before other vCPUs run only. Ends the guest when out of page tables.
void map_identity(u64 begin, u64 end);
// The highest address that can be mapped.
inline constexpr u64 kMappableEnd = 512ULL << 30;

}  // namespace snapvm::guest
