// SPDX-License-Identifier: Apache-2.0
// The vCPUs beyond the first.
#pragma once

#include "guest-images/ledger/acpi.h"

namespace snapvm::guest {

// Prepares the first vCPU's own PerCpu. With one vCPU, all there is to do.
void prepare_first_cpu(u32 apic_id);
// Starts cpus.apic_ids[1] and up; they enter ap_main(index) at CPL 3. Returns at once.
void start_other_cpus(const CpuList& cpus);

}  // namespace snapvm::guest
