// SPDX-License-Identifier: Apache-2.0
// Registers by Capstone's names, and where memory operands lie.
#pragma once

#include <capstone/capstone.h>

#include <cstdint>
#include <optional>

#include "vmm/emulate/cpu_state.h"

namespace snapvm::emulate {

/// A general register's value, zero-extended; nothing for one that is none. RIP is that of the next instruction, as addresses take it.
[[nodiscard]] std::optional<std::uint64_t> read_register(const CpuState& cpu, x86_reg reg, std::uint64_t next_rip);
/// As an instruction writes it: 32 bits clear the upper half, 8 and 16 leave the rest. False for one that is none.
[[nodiscard]] bool write_register(CpuState& cpu, x86_reg reg, std::uint64_t value);

/// The linear address of a memory operand: segment base, base, scaled index and displacement, cut to the address size. Nothing where it
/// uses what is not a general register.
[[nodiscard]] std::optional<std::uint64_t> linear_address(const CpuState& cpu, const cs_insn& instruction,
                                                          const x86_op_mem& operand);

/// Whether memory operands with this base are the stack's, where no segment is named.
[[nodiscard]] bool is_stack_base(x86_reg base);

}  // namespace snapvm::emulate
