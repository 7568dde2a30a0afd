// SPDX-License-Identifier: Apache-2.0
// A vCPU's whole state as a plain struct: read from a vCPU, written to one, encoded and decoded.
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

/// Version 1 of the vCPU record, as plain data. After decode() its structure is sound, but its
/// values are untrusted: KVM checks them.
struct VcpuStateV1 {
    static constexpr std::uint16_t kVersion = 1;

    CpuidTable cpuid;
    kvm_mp_state mp_state{};
    kvm_regs regs{};
    kvm_sregs2 sregs{};
    std::vector<std::byte> xsave;  ///< the buffer of KVM_GET_XSAVE2, at least 4 KiB
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
Result<VcpuStateV1> capture_vcpu(const kvm::System& system, const kvm::VcpuFd& vcpu,
                                 std::span<const std::uint32_t> msr_indices);

/// Writes a state into a fresh vCPU. Fails with unsupported if KVM refuses an MSR that does not
/// have the value already.
Status apply_vcpu(const kvm::System& system, kvm::VcpuFd& vcpu, const VcpuStateV1& state);

inline constexpr std::uint32_t kMsrTsc = 0x10;
inline constexpr std::uint32_t kMsrTscDeadline = 0x6E0;

/// Removes from `state`, and returns in order, the MSRs that are set only when the vCPU is about to
/// run. These are the TSC and its deadline, which would advance while the machine is paused, and
/// KVM's own MSRs (kvmclock, steal time and the like). Through the latter KVM writes to guest
/// memory, and on some hosts it does so as soon as they are set.
[[nodiscard]] std::vector<kvm_msr_entry> take_late_msrs(VcpuStateV1& state);
/// Sets MSRs of a vCPU in order. Fails like apply_vcpu.
Status set_vcpu_msrs(kvm::VcpuFd& vcpu, std::span<const kvm_msr_entry> msrs);
/// Overwrites the values that `state` has for `msrs`.
void put_msrs(VcpuStateV1& state, std::span<const kvm_msr_entry> msrs);

/// Returns those of `indices` that can be part of a guest's state. Drops Hyper-V's MSRs if `cpuid`
/// does not show Hyper-V: the guest can neither read nor write them, and some change by themselves.
[[nodiscard]] std::vector<std::uint32_t> msrs_of_guest(std::span<const std::uint32_t> indices,
                                                       std::span<const kvm_cpuid_entry2> cpuid);

/// Returns the MSRs of KVM_GET_MSR_INDEX_LIST in the order in which they must be set.
[[nodiscard]] std::vector<std::uint32_t> order_msrs(std::vector<std::uint32_t> indices);

}  // namespace snapvm
