// SPDX-License-Identifier: Apache-2.0
// Instructions that KVM's own emulator lacks, one by one. Source: Intel SDM volume 2.
#pragma once

#include <capstone/capstone.h>

#include <span>

#include "vmm/emulate/address_space.h"
#include "vmm/emulate/cpu_state.h"
#include "vmm/emulate/executed.h"

namespace snapvm::emulate {

/// Carries out one instruction as the processor would, RIP included. Untrusted: `bytes` are the guest's; whatever it is, nothing but the
/// guest's registers and memory changes. After an exception the registers are as before, but for RIP where it is a trap. `instruction`
/// is what the decoder made of `bytes`, null where that was nothing.
Executed execute(const cs_insn* instruction, std::span<const std::byte> bytes, CpuState& cpu, AddressSpace& space,
                 ExtendedState& extended);

}  // namespace snapvm::emulate
