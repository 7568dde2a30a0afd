// SPDX-License-Identifier: Apache-2.0
// /dev/kvm itself: what this host's KVM offers. Source: Documentation/virt/kvm/api.rst, "system ioctls".
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/kvm/abi.h"

namespace snapvm::kvm {

/// Capabilities, probed once when /dev/kvm is opened. Numbers are KVM_CHECK_EXTENSION's results, 0 = not there.
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
    int tsc_control = 0;       ///< guest TSC frequency can be set
    int get_tsc_khz = 0;
    int tsc_deadline_timer = 0;
    int manual_dirty_log = 0;  ///< KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2's flags
    int dirty_ring = 0;        ///< largest ring in bytes, of the acquire-release or the plain kind
    int x86_user_space_msr = 0;
    int exit_on_emulation_failure = 0;
    int binary_stats = 0;
    int sync_regs = 0;
    int pre_fault_memory = 0;
    int memory_attributes = 0;
};

/// Owns the /dev/kvm descriptor. Immutable after open; any thread may use it.
class System {
public:
    /// Opens /dev/kvm and checks what no machine can do without (API version 12, user memory, split irqchip, immediate exit).
    /// The error says in one line what to do where there is no /dev/kvm or no permission.
    static Result<System> open();

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] const Capabilities& capabilities() const { return capabilities_; }
    /// Bytes of a vCPU's kvm_run mapping.
    [[nodiscard]] std::size_t run_mapping_size() const { return run_mapping_size_; }
    /// KVM_CHECK_EXTENSION for one the table above does not have; 0 when unknown.
    [[nodiscard]] int check(int extension) const;

    /// KVM_GET_SUPPORTED_CPUID.
    Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
    /// KVM_GET_MSR_INDEX_LIST: the MSRs that make up a vCPU's state.
    Result<std::vector<std::uint32_t>> msr_indices() const;

private:
    explicit System(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
    Capabilities capabilities_;
    std::size_t run_mapping_size_ = 0;
};

}  // namespace snapvm::kvm
