// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/paging.h"

#include "guest-images/ledger/power.h"

namespace snapvm::guest {

extern "C" volatile u64 pdpt[512];

namespace {

constexpr u32 kDirectories = 32;
constexpr u64 kLargePage = 0xe7;  // present, writable, user, accessed, dirty, 2 MiB
constexpr u64 kTable = 0x27;      // present, writable, user, accessed

alignas(4096) u64 directories[kDirectories][512];
u32 used = 0;

}  // namespace

void map_identity(u64 begin, u64 end) {
    if (end > kMappableEnd || end < begin) panic("address out of reach");
    for (u64 gib = begin >> 30; gib << 30 < end; ++gib) {
        if (pdpt[gib] != 0) continue;
        if (used == kDirectories) panic("out of page tables");
        u64* directory = directories[used++];
        for (u64 i = 0; i < 512; ++i) directory[i] = (gib << 30 | i << 21) + kLargePage;
        // The directory is filled before it is linked in: an entry that was not present needs no
        // TLB flush, and the hypervisor sees one write.
        publish(const_cast<u64&>(pdpt[gib]), reinterpret_cast<u64>(directory) + kTable);
    }
}

}  // namespace snapvm::guest
