// SPDX-License-Identifier: Apache-2.0
// A vCPU's whole state: as a plain struct, on and off a vCPU, and as bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/vcpu/cpuid.h"

namespace snapvm {

/// Version 1 of the vCPU record. Plain data; after decode() it is structurally sound but still untrusted: KVM judges the values.
struct VcpuStateV1 {
    static constexpr std::uint16_t kVersion = 1;

    CpuidTable cpuid;
    kvm_mp_state mp_state{};
    kvm_regs regs{};
    kvm_sregs2 sregs{};
    std::vector<std::byte> xsave;  ///< KVM_GET_XSAVE2's buffer, a multiple of 4 KiB at least
    kvm_xcrs xcrs{};
    kvm_debugregs debugregs{};
    kvm_lapic_state lapic{};
    std::vector<kvm_msr_entry> msrs;  ///< TSC first, TSC deadline last
    kvm_vcpu_events events{};
    std::uint32_t tsc_khz = 0;

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<VcpuStateV1> decode(std::span<const std::byte> bytes);
};

/// Reads the state of a parked vCPU whose last exit has been completed.
Result<VcpuStateV1> capture_vcpu(const kvm::System& system, const kvm::VcpuFd& vcpu, std::span<const std::uint32_t> msr_indices);

/// Puts a state into a fresh vCPU. An MSR that KVM does not take and that does not already have the value is an error.
Status apply_vcpu(const kvm::System& system, kvm::VcpuFd& vcpu, const VcpuStateV1& state);

inline constexpr std::uint32_t kMsrTsc = 0x10;
inline constexpr std::uint32_t kMsrTscDeadline = 0x6E0;

/// Takes the MSRs that are for when the vCPU is about to run out of `state`, in their order: the TSC and its deadline, which would go on
/// while the machine only stands there, and KVM's own (kvmclock, steal time and the like), through which KVM writes into guest memory,
/// some hosts' KVM as soon as they are set.
[[nodiscard]] std::vector<kvm_msr_entry> take_late_msrs(VcpuStateV1& state);
/// Puts MSRs into a vCPU, in order; errors as of apply_vcpu.
Status set_vcpu_msrs(kvm::VcpuFd& vcpu, std::span<const kvm_msr_entry> msrs);
/// Overwrites the values that `state` has for `msrs`.
void put_msrs(VcpuStateV1& state, std::span<const kvm_msr_entry> msrs);

/// Those of `indices` that can be a guest's state: Hyper-V's are not where `cpuid` does not show Hyper-V, since the guest can neither
/// read nor write them, and some change by themselves.
[[nodiscard]] std::vector<std::uint32_t> msrs_of_guest(std::span<const std::uint32_t> indices,
                                                       std::span<const kvm_cpuid_entry2> cpuid);

/// KVM_GET_MSR_INDEX_LIST in the order in which MSRs must be set again.
[[nodiscard]] std::vector<std::uint32_t> order_msrs(std::vector<std::uint32_t> indices);

}  // namespace snapvm
