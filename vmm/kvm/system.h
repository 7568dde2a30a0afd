// SPDX-License-Identifier: Apache-2.0
// Opens /dev/kvm and tells what this host's KVM offers. Source: Documentation/virt/kvm/api.rst,
// "system ioctls".
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/kvm/abi.h"

namespace snapvm::kvm {

/// KVM's capabilities, read once when /dev/kvm is opened. Each number is the result of
/// KVM_CHECK_EXTENSION; 0 means that KVM lacks it.
struct Capabilities {
    int max_vcpus = 0;
    int memory_slots = 0;
    int split_irqchip = 0;
    int immediate_exit = 0;
    int user_memory = 0;
    int signal_msi = 0;
    int irqfd = 0;
    int ioeventfd = 0;
    int xsave2 = 0;            ///< bytes of KVM_GET_XSAVE2's buffer
    int xcrs = 0;
    int debugregs = 0;
    int vcpu_events = 0;
    int sregs2 = 0;
    int kvmclock_ctrl = 0;
    int adjust_clock = 0;      ///< flags that KVM_GET_CLOCK may return
    int tsc_control = 0;       ///< KVM can set the guest's TSC frequency
    int get_tsc_khz = 0;
    int tsc_deadline_timer = 0;
    int manual_dirty_log = 0;  ///< flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
    int dirty_ring = 0;        ///< bytes of the largest ring, of the acquire-release or the plain kind
    int x86_user_space_msr = 0;
    int exit_on_emulation_failure = 0;
    int binary_stats = 0;
    int sync_regs = 0;
    int pre_fault_memory = 0;
    int memory_attributes = 0;
};

/// Owns the descriptor of /dev/kvm. It never changes after `open`; any thread may use it.
class System {
public:
    /// Opens /dev/kvm and checks what every machine needs: API version 12, user memory, split
    /// irqchip, immediate exit, MSIs, vCPU events and XCRs. Fails with system if /dev/kvm does not
    /// open, with advice on how to get it or access to it, and with unsupported if KVM lacks one of
    /// these.
    static Result<System> open();

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] const Capabilities& capabilities() const { return capabilities_; }
    /// Returns the size of a vCPU's kvm_run mapping in bytes.
    [[nodiscard]] std::size_t run_mapping_size() const { return run_mapping_size_; }
    /// Calls KVM_CHECK_EXTENSION for an extension that Capabilities lacks. Returns 0 if KVM does
    /// not know it.
    [[nodiscard]] int check(int extension) const;

    /// Returns the CPUID table that KVM can give to guests (KVM_GET_SUPPORTED_CPUID).
    Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
    /// Returns the MSRs that make up a vCPU's state (KVM_GET_MSR_INDEX_LIST).
    Result<std::vector<std::uint32_t>> msr_indices() const;

private:
    explicit System(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
    Capabilities capabilities_;
    std::size_t run_mapping_size_ = 0;
};

}  // namespace snapvm::kvm
