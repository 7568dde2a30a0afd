// SPDX-License-Identifier: Apache-2.0
// Makes each vCPU's CPUID table, and checks whether a host can run a saved one. Source: Intel SDM
// volume 2 "CPUID", AMD APM volume 3 appendix E, Hyper-V's Top Level Functional Specification 2.4.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/kvm/abi.h"

namespace snapvm {

using CpuidTable = std::vector<kvm_cpuid_entry2>;

/// Returns KVM's supported table with the values of one vCPU filled in: APIC ids and the topology
/// (one package of `cpus` cores). `tsc_deadline` shows the TSC deadline timer; KVM leaves that bit
/// to the VMM.
[[nodiscard]] CpuidTable cpuid_for_vcpu(const CpuidTable& supported, std::uint32_t index, std::uint32_t cpus,
                                        bool tsc_deadline);

/// Returns whether the table shows the guest Hyper-V's interface. KVM gives a guest access to
/// Hyper-V's MSRs by the same test.
[[nodiscard]] bool shows_hyper_v(std::span<const kvm_cpuid_entry2> table);

/// Fails with unsupported if `saved` shows features that `supported` lacks. The message names leaf,
/// register and bits.
[[nodiscard]] Status check_cpuid(std::span<const kvm_cpuid_entry2> saved, std::span<const kvm_cpuid_entry2> supported);

}  // namespace snapvm
