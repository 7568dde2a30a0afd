// SPDX-License-Identifier: Apache-2.0
// What a host whose KVM leaves things undone puts between KVM_RUN and the machine (vmm/emulate). Others have none.
#pragma once

#include "vmm/base/error.h"
#include "vmm/kvm/vcpu_fd.h"

namespace snapvm {

/// Makes up for what a KVM cannot do. One a vCPU, called on that vCPU's thread only.
class ExitRepair {
public:
    virtual ~ExitRepair() = default;
    /// Before the vCPU first runs in this process, from whatever state it has.
    virtual Status begin(kvm::VcpuFd& vcpu) = 0;
    /// After a KVM_RUN that came back with an exit, before that is handled.
    virtual Status look(kvm::VcpuFd& vcpu) = 0;
    /// For KVM_EXIT_INTERNAL_ERROR and KVM_EXIT_DEBUG: whether the vCPU can go on. An error says why it cannot where that is known.
    virtual Result<bool> repair(kvm::VcpuFd& vcpu) = 0;
};

}  // namespace snapvm
