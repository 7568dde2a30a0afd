// SPDX-License-Identifier: Apache-2.0
// Finds out the facts. What is not there is a fact too: only a /dev/kvm that cannot be used is an error.
#pragma once

#include "vmm/base/error.h"
#include "vmm/doctor/facts.h"

namespace snapvm::doctor {

/// Everything, in about 0.1 s: most of that goes into the twenty machines whose creation is timed and the loop at CPL 0.
Result<HostFacts> probe_host();

/// The parts. These need /dev/kvm (its error says what to do) …
Result<KvmFacts> probe_kvm();
/// … and these nothing.
[[nodiscard]] SystemFacts probe_system();
[[nodiscard]] UserfaultfdFacts probe_userfaultfd();
[[nodiscard]] IoUringFacts probe_io_uring();
[[nodiscard]] HugePageFacts probe_huge_pages();
[[nodiscard]] CgroupFacts probe_cgroup();
[[nodiscard]] MemoryFacts probe_memory();

}  // namespace snapvm::doctor
