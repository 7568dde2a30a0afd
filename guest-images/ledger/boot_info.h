// SPDX-License-Identifier: Apache-2.0
// Copies what the VMM passed in through either entry, before its memory is used for something else.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

struct MemoryRange {
    u64 begin = 0;
    u64 end = 0;
};

struct BootInfo {
    static constexpr u32 kMaxRanges = 32;
    static constexpr u32 kMaxCommandLine = 1024;
    MemoryRange ram[kMaxRanges];  // usable RAM, in the order given
    u32 ranges;
    u64 rsdp;  // 0: not given
    char command_line[kMaxCommandLine];
};

// Reads the structure at `address`. `kind` is BOOT_PVH or BOOT_LINUX64, by the entry that was
// taken.
void read_boot_info(BootInfo& info, u32 kind, u64 address);

}  // namespace snapvm::guest
