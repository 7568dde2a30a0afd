// SPDX-License-Identifier: Apache-2.0
// The hook between KVM_RUN and the machine on hosts whose KVM cannot carry out some instructions
// (vmm/emulate). On other hosts no such object exists.
#pragma once

#include "vmm/base/error.h"
#include "vmm/kvm/vcpu_fd.h"

namespace snapvm {

/// Completes what a KVM cannot do. Each vCPU has one; only that vCPU's thread calls it.
class ExitRepair {
public:
    virtual ~ExitRepair() = default;
    /// Called before the vCPU first runs in this process, in whatever state it is.
    virtual Status begin(kvm::VcpuFd& vcpu) = 0;
    /// Called after each exit of KVM_RUN, before the exit is handled.
    virtual Status look(kvm::VcpuFd& vcpu) = 0;
    /// Called for KVM_EXIT_INTERNAL_ERROR and KVM_EXIT_DEBUG. Returns whether the vCPU can go on.
    /// An error says why it cannot, if that is known.
    virtual Result<bool> repair(kvm::VcpuFd& vcpu) = 0;
};

}  // namespace snapvm
