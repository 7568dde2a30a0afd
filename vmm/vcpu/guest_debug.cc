// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/guest_debug.h"

#include "vmm/base/try.h"

namespace snapvm {

Status GuestDebug::set_breakpoint(kvm::VcpuFd& vcpu, BreakpointUser user, std::optional<std::uint64_t> address) {
    auto& current = addresses_[static_cast<std::size_t>(user)];
    if (current == address) {
        return {};
    }
    current = address;
    return apply(vcpu);
}

Status GuestDebug::set_single_step(kvm::VcpuFd& vcpu, bool on) {
    if (single_step_ == on) {
        return {};
    }
    single_step_ = on;
    return apply(vcpu);
}

Status GuestDebug::apply(kvm::VcpuFd& vcpu) const {
    constexpr std::uint64_t kReserved = 1U << 10;  // always 1
    kvm_guest_debug debug{};
    std::uint64_t enabled = 0;
    for (std::size_t i = 0; i < addresses_.size(); ++i) {
        if (addresses_[i]) {
            debug.arch.debugreg[i] = *addresses_[i];
            enabled |= 2ULL << (2 * i);  // global enable; length and condition are 0: execution
        }
    }
    if (single_step_) {
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    } else if (enabled != 0) {
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[7] = enabled | kReserved;
    }
    TRY(vcpu.set(KVM_SET_GUEST_DEBUG, debug, "KVM_SET_GUEST_DEBUG"));
    return {};
}

}  // namespace snapvm
