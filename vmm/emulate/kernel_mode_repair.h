// SPDX-License-Identifier: Apache-2.0
// For hosts whose KVM interprets kernel mode: carries out what it lacks there, which is some
// instructions and SYSCALL.
#pragma once

#include <memory>

#include "vmm/base/error.h"
#include "vmm/kvm/system.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/vcpu/exit_repair.h"

namespace snapvm::emulate {

/// Returns whether this host's KVM interprets kernel mode, since the processor has neither VT-x nor
/// AMD-V. The first call takes a microsecond and the answer is kept.
[[nodiscard]] bool kernel_mode_is_emulated();

/// Makes the repair for one vCPU. `memory` must outlive it.
Result<std::unique_ptr<ExitRepair>> repair_kernel_mode(const kvm::System& system, GuestMemory& memory);

}  // namespace snapvm::emulate
