// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/operand.h"

#include <algorithm>
#include <array>

namespace snapvm::emulate {
namespace {

// One register's names, by width. The second byte of the first four is a register, too (AH, CH, DH,
// BH).
struct Names {
    x86_reg r64, r32, r16, r8, high;
    __u64 kvm_regs::* value;
};

constexpr std::array<Names, 16> kNames = {{
    {X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL, X86_REG_AH, &kvm_regs::rax},
    {X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL, X86_REG_CH, &kvm_regs::rcx},
    {X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL, X86_REG_DH, &kvm_regs::rdx},
    {X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL, X86_REG_BH, &kvm_regs::rbx},
    {X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL, X86_REG_INVALID, &kvm_regs::rsp},
    {X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL, X86_REG_INVALID, &kvm_regs::rbp},
    {X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL, X86_REG_INVALID, &kvm_regs::rsi},
    {X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL, X86_REG_INVALID, &kvm_regs::rdi},
    {X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B, X86_REG_INVALID, &kvm_regs::r8},
    {X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B, X86_REG_INVALID, &kvm_regs::r9},
    {X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B, X86_REG_INVALID, &kvm_regs::r10},
    {X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B, X86_REG_INVALID, &kvm_regs::r11},
    {X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B, X86_REG_INVALID, &kvm_regs::r12},
    {X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B, X86_REG_INVALID, &kvm_regs::r13},
    {X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B, X86_REG_INVALID, &kvm_regs::r14},
    {X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B, X86_REG_INVALID, &kvm_regs::r15},
}};

struct Part {
    __u64 kvm_regs::* value = nullptr;
    unsigned bits = 0;
    unsigned shift = 0;
};

std::optional<Part> part_of(x86_reg reg) {
    if (reg == X86_REG_INVALID) {
        return std::nullopt;
    }
    for (const Names& names : kNames) {
        if (reg == names.r64) return Part{names.value, 64, 0};
        if (reg == names.r32) return Part{names.value, 32, 0};
        if (reg == names.r16) return Part{names.value, 16, 0};
        if (reg == names.r8) return Part{names.value, 8, 0};
        if (reg == names.high) return Part{names.value, 8, 8};
    }
    return std::nullopt;
}

std::uint64_t mask_of(unsigned bits) { return bits == 64 ? ~0ULL : (1ULL << bits) - 1; }

const kvm_segment& segment_of(const kvm_sregs& sregs, x86_reg reg, bool by_stack) {
    switch (reg) {
        case X86_REG_CS: return sregs.cs;
        case X86_REG_DS: return sregs.ds;
        case X86_REG_ES: return sregs.es;
        case X86_REG_FS: return sregs.fs;
        case X86_REG_GS: return sregs.gs;
        case X86_REG_SS: return sregs.ss;
        default: return by_stack ? sregs.ss : sregs.ds;
    }
}

}  // namespace

bool is_stack_base(x86_reg base) {
    return base == X86_REG_RSP || base == X86_REG_RBP || base == X86_REG_ESP || base == X86_REG_EBP ||
           base == X86_REG_BP;
}

std::optional<std::uint64_t> read_register(const CpuState& cpu, x86_reg reg, std::uint64_t next_rip) {
    if (reg == X86_REG_RIP || reg == X86_REG_EIP) {
        return next_rip;
    }
    const auto part = part_of(reg);
    if (!part) {
        return std::nullopt;
    }
    return (cpu.regs.*part->value >> part->shift) & mask_of(part->bits);
}

bool write_register(CpuState& cpu, x86_reg reg, std::uint64_t value) {
    const auto part = part_of(reg);
    if (!part) {
        return false;
    }
    __u64& whole = cpu.regs.*part->value;
    const std::uint64_t mask = mask_of(part->bits) << part->shift;
    const std::uint64_t kept = part->bits >= 32 ? 0 : whole & ~mask;
    whole = kept | ((value << part->shift) & mask);
    return true;
}

std::optional<std::uint64_t> linear_address(const CpuState& cpu, const cs_insn& instruction,
                                            const x86_op_mem& operand) {
    const std::uint64_t next_rip = instruction.address + instruction.size;
    auto address = static_cast<std::uint64_t>(operand.disp);
    if (operand.base != X86_REG_INVALID) {
        const auto base = read_register(cpu, operand.base, next_rip);
        if (!base) {
            return std::nullopt;
        }
        address += *base;
    }
    // RIZ and EIZ are Capstone's names for "no index".
    if (operand.index != X86_REG_INVALID && operand.index != X86_REG_RIZ && operand.index != X86_REG_EIZ) {
        const auto index = read_register(cpu, operand.index, next_rip);
        if (!index) {
            return std::nullopt;
        }
        address += *index * static_cast<std::uint64_t>(operand.scale);
    }
    address &= mask_of(instruction.detail->x86.addr_size * 8U);
    const kvm_segment& segment = segment_of(cpu.sregs, operand.segment, is_stack_base(operand.base));
    // In 64-bit code only FS and GS have a base (Intel SDM volume 1, 3.4.2.1).
    if (cpu.sregs.cs.l == 0 || operand.segment == X86_REG_FS || operand.segment == X86_REG_GS) {
        address += segment.base;
    }
    return cpu.sregs.cs.l == 0 ? address & 0xFFFF'FFFF : address;
}

}  // namespace snapvm::emulate
