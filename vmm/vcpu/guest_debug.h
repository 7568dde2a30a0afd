// SPDX-License-Identifier: Apache-2.0
// A vCPU's breakpoints for the VMM's own use. Source: Documentation/virt/kvm/api.rst, KVM_SET_GUEST_DEBUG; Intel SDM volume 3, 18.2 (DR7).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "vmm/base/error.h"
#include "vmm/kvm/vcpu_fd.h"

namespace snapvm {

/// Who wants a breakpoint. Each has a debug register of its own, so that a debugger can be added beside the repair.
enum class BreakpointUser : std::uint8_t { page_fault_entry = 0, debugger0, debugger1, debugger2 };

/// KVM_SET_GUEST_DEBUG is one word for all users: the only place that calls it. While any is set, the guest's own debug registers do not work
/// (KVM's rule). On the vCPU's thread.
class GuestDebug {
public:
    /// On execution at a linear address; nothing takes it back. Calls KVM only for a change.
    Status set_breakpoint(kvm::VcpuFd& vcpu, BreakpointUser user, std::optional<std::uint64_t> address);
    /// One instruction, without breakpoints, at the next KVM_RUN; then an exit, KVM_EXIT_DEBUG with DR6.BS. Until switched off.
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
