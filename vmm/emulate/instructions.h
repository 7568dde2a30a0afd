// SPDX-License-Identifier: Apache-2.0
// Carries out instructions that KVM's own emulator lacks. Source: Intel SDM volume 2.
#pragma once

#include <capstone/capstone.h>

#include <span>

#include "vmm/emulate/address_space.h"
#include "vmm/emulate/cpu_state.h"
#include "vmm/emulate/executed.h"

namespace snapvm::emulate {

/// Carries out one instruction as the processor would, and advances RIP. `bytes` are the guest's
/// and untrusted; only the guest's registers and memory change. After an exception the registers
/// are as before; a trap has advanced RIP. `instruction` is what the decoder made of `bytes`, or
/// null if it could not decode them.
Executed execute(const cs_insn* instruction, std::span<const std::byte> bytes, CpuState& cpu, AddressSpace& space,
                 ExtendedState& extended);

}  // namespace snapvm::emulate
