// SPDX-License-Identifier: Apache-2.0
// Measures the facts. A missing feature is a fact, too; only an unusable /dev/kvm is an error.
#pragma once

#include "vmm/base/error.h"
#include "vmm/doctor/facts.h"

namespace snapvm::doctor {

/// Measures everything, in about 0.1 s. Most of that goes into twenty timed creations of machines,
/// and into the loop at CPL 0.
Result<HostFacts> probe_host();

/// Measures KVM. Needs /dev/kvm; the error says how to get it.
Result<KvmFacts> probe_kvm();
/// The other parts; they need nothing and never fail.
[[nodiscard]] SystemFacts probe_system();
[[nodiscard]] UserfaultfdFacts probe_userfaultfd();
[[nodiscard]] IoUringFacts probe_io_uring();
[[nodiscard]] HugePageFacts probe_huge_pages();
[[nodiscard]] CgroupFacts probe_cgroup();
[[nodiscard]] MemoryFacts probe_memory();

}  // namespace snapvm::doctor
