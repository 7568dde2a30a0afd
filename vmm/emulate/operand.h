// SPDX-License-Identifier: Apache-2.0
// Reads and writes registers by Capstone's names, and computes the addresses of memory operands.
#pragma once

#include <capstone/capstone.h>

#include <cstdint>
#include <optional>

#include "vmm/emulate/cpu_state.h"

namespace snapvm::emulate {

/// Returns a general register's value, zero-extended, or nothing if it is not a general register.
/// For RIP it returns `next_rip`, as address computations do.
[[nodiscard]] std::optional<std::uint64_t> read_register(const CpuState& cpu, x86_reg reg, std::uint64_t next_rip);
/// Writes a register as an instruction does: 32 bits clear the upper half, 8 and 16 bits keep the
/// rest. Returns false if it is not a general register.
[[nodiscard]] bool write_register(CpuState& cpu, x86_reg reg, std::uint64_t value);

/// Returns the linear address of a memory operand: segment base, base, scaled index and
/// displacement, truncated to the address size. Returns nothing if it uses a register that is not
/// general.
[[nodiscard]] std::optional<std::uint64_t> linear_address(const CpuState& cpu, const cs_insn& instruction,
                                                          const x86_op_mem& operand);

/// Returns whether memory operands with this base use the stack segment by default.
[[nodiscard]] bool is_stack_base(x86_reg base);

}  // namespace snapvm::emulate
