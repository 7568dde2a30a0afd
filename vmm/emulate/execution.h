// SPDX-License-Identifier: Apache-2.0
// Internal to the files that carry out instructions.
#pragma once

#include <capstone/capstone.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>

#include "vmm/emulate/address_space.h"
#include "vmm/emulate/cpu_state.h"
#include "vmm/emulate/executed.h"
#include "vmm/emulate/xsave.h"

namespace snapvm::emulate {

// One instruction being carried out, and what all instructions need.
class Execution {
public:
    Execution(const cs_insn& instruction, CpuState& cpu, AddressSpace& space, ExtendedState& extended)
        : instruction_(instruction), x86_(instruction.detail->x86), cpu_(cpu), space_(space), extended_(extended) {}

    Executed run();

private:
    [[nodiscard]] Access access() const {
        const bool user = cpu_.cpl() == 3;
        return {.user = user, .user_pages_open = (cpu_.regs.rflags & kFlagAlignmentCheck) != 0};
    }
    [[nodiscard]] std::uint64_t next_rip() const { return cpu_.regs.rip + instruction_.size; }
    [[nodiscard]] std::uint64_t edx_eax() const { return (cpu_.regs.rdx << 32) | (cpu_.regs.rax & 0xFFFF'FFFF); }
    // Returns the linear address of the memory operand, or the exception for one that is not
    // canonical.
    [[nodiscard]] std::expected<std::uint64_t, NotDone> memory_address() const;
    Executed trap(std::uint8_t vector, bool software_interrupt);
    Executed wait();
    Executed set_alignment_check(bool on);
    Executed count_bits();
    Executed compare_exchange_16();
    Executed random();
    Executed get_extended_control();
    Executed segment_base();
    Executed segment_query();
    Executed extended_state(bool privileged, const std::function<Executed(std::uint64_t)>& work);
    Executed save(SaveKind kind);
    Executed restore(RestoreKind kind);

    const cs_insn& instruction_;
    const cs_x86& x86_;
    CpuState& cpu_;
    AddressSpace& space_;
    ExtendedState& extended_;
};

}  // namespace snapvm::emulate
