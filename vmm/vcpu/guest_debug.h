// SPDX-License-Identifier: Apache-2.0
// Breakpoints in a vCPU for the VMM's own use. Source: Documentation/virt/kvm/api.rst,
// KVM_SET_GUEST_DEBUG; Intel SDM volume 3, 18.2 (DR7).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "vmm/base/error.h"
#include "vmm/kvm/vcpu_fd.h"

namespace snapvm {

/// The users of breakpoints. Each has its own debug register, so that a debugger can be added
/// beside the repair.
enum class BreakpointUser : std::uint8_t { page_fault_entry = 0, debugger0, debugger1, debugger2 };

/// Sets the breakpoints of one vCPU. KVM_SET_GUEST_DEBUG replaces the breakpoints of all users, so
/// nothing else calls it. While any is set, the guest's own debug registers do not work (KVM's
/// rule). The vCPU's thread calls it.
class GuestDebug {
public:
    /// Sets or clears the user's breakpoint on execution at a linear address. Calls KVM only if it
    /// changes. It stays set until the user clears it.
    Status set_breakpoint(kvm::VcpuFd& vcpu, BreakpointUser user, std::optional<std::uint64_t> address);
    /// Makes each KVM_RUN execute one instruction, without breakpoints, and exit with
    /// KVM_EXIT_DEBUG and DR6.BS, until it is switched off.
    Status set_single_step(kvm::VcpuFd& vcpu, bool on);
    [[nodiscard]] std::optional<std::uint64_t> breakpoint(BreakpointUser user) const {
        return addresses_[static_cast<std::size_t>(user)];
    }
    [[nodiscard]] bool single_step() const { return single_step_; }

private:
    Status apply(kvm::VcpuFd& vcpu) const;
    std::array<std::optional<std::uint64_t>, 4> addresses_;
    bool single_step_ = false;
};

}  // namespace snapvm
