// SPDX-License-Identifier: Apache-2.0
// Finds the vCPUs in the ACPI tables.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

struct CpuList {
    u32 count = 0;
    u8 apic_ids[MAX_CPUS] = {};
};

// Returns the enabled LAPICs of the MADT, at most MAX_CPUS. `rsdp` is the RSDP's address; if it is
// 0, the RSDP is searched for by its signature. The list is empty if there are no valid tables.
CpuList find_cpus(u64 rsdp);

}  // namespace snapvm::guest
