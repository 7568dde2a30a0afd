// SPDX-License-Identifier: Apache-2.0
// The CPU list from ACPI.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

struct CpuList {
    u32 count = 0;
    u8 apic_ids[MAX_CPUS] = {};
};

// Enabled LAPICs of the MADT, through the RSDP at `rsdp`, or found by its signature if that is 0. At most MAX_CPUS;
// none if there are no (valid) tables.
CpuList find_cpus(u64 rsdp);

}  // namespace snapvm::guest
