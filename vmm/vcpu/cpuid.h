// SPDX-License-Identifier: Apache-2.0
// The CPUID table of each vCPU, and whether a host can run a saved one. Source: Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E,
// Hyper-V's Top Level Functional Specification 2.4.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/kvm/abi.h"

namespace snapvm {

using CpuidTable = std::vector<kvm_cpuid_entry2>;

/// KVM's supported table with what differs from vCPU to vCPU filled in (APIC ids, topology: one package of `cpus` cores) and the TSC
/// deadline timer shown where KVM has it (KVM leaves that bit to the VMM).
[[nodiscard]] CpuidTable cpuid_for_vcpu(const CpuidTable& supported, std::uint32_t index, std::uint32_t cpus, bool tsc_deadline);

/// Whether the table shows the guest Hyper-V's interface. KVM lets a guest have Hyper-V's MSRs by the same test.
[[nodiscard]] bool shows_hyper_v(std::span<const kvm_cpuid_entry2> table);

/// Fails, naming leaf, register and bits, when `saved` shows the guest features that `supported` does not have.
[[nodiscard]] Status check_cpuid(std::span<const kvm_cpuid_entry2> saved, std::span<const kvm_cpuid_entry2> supported);

}  // namespace snapvm
