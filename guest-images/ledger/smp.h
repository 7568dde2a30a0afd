// SPDX-License-Identifier: Apache-2.0
// Starts the vCPUs beyond the first.
#pragma once

#include "guest-images/ledger/acpi.h"

namespace snapvm::guest {

// Prepares the first vCPU's PerCpu. With one vCPU that is all.
void prepare_first_cpu(u32 apic_id);
// Starts cpus.apic_ids[1] and up, and returns at once. They enter ap_main(index) at CPL 3.
void start_other_cpus(const CpuList& cpus);

}  // namespace snapvm::guest
