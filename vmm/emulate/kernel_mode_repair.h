// SPDX-License-Identifier: Apache-2.0
// Hosts whose KVM interprets kernel mode, and what it leaves undone there: instructions its emulator lacks, and SYSCALL.
#pragma once

#include <memory>

#include "vmm/base/error.h"
#include "vmm/kvm/system.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/vcpu/exit_repair.h"

namespace snapvm::emulate {

/// Whether this host's KVM has no hardware virtualisation to run kernel mode with: the processor has neither VT-x nor AMD-V. Looked up
/// once, in a microsecond.
[[nodiscard]] bool kernel_mode_is_emulated();

/// For one vCPU of a machine whose memory outlives it.
Result<std::unique_ptr<ExitRepair>> repair_kernel_mode(const kvm::System& system, GuestMemory& memory);

}  // namespace snapvm::emulate
