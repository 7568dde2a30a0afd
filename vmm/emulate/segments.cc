// SPDX-License-Identifier: Apache-2.0
// Instructions that read or write segment bases, or query descriptors. Source: Intel SDM volume 3,
// 3.4.5 (descriptors), 5.10.
#include "vmm/emulate/execution.h"
#include "vmm/emulate/operand.h"

namespace snapvm::emulate {
namespace {

bool is_code(const kvm_segment& segment) { return segment.s != 0 && (segment.type & 8) != 0; }
bool is_conforming(const kvm_segment& segment) { return is_code(segment) && (segment.type & 4) != 0; }
bool is_readable(const kvm_segment& segment) {
    return segment.s != 0 && (!is_code(segment) || (segment.type & 2) != 0);
}
bool is_writable(const kvm_segment& segment) { return segment.s != 0 && !is_code(segment) && (segment.type & 2) != 0; }

constexpr unsigned kLdt = 2, kTssAvailable = 9, kTssBusy = 11, kCallGate = 12;

}  // namespace

// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
Executed Execution::segment_base() {
    if ((cpu_.sregs.cr4 & kCr4FsGsBase) == 0 || cpu_.sregs.cs.l == 0) {
        return raise(invalid_opcode());
    }
    const bool fs = instruction_.id == X86_INS_RDFSBASE || instruction_.id == X86_INS_WRFSBASE;
    kvm_segment& segment = fs ? cpu_.sregs.fs : cpu_.sregs.gs;
    const x86_reg reg = x86_.operands[0].reg;
    if (instruction_.id == X86_INS_RDFSBASE || instruction_.id == X86_INS_RDGSBASE) {
        return write_register(cpu_, reg, segment.base) ? Executed{} : not_emulated();
    }
    const auto value = read_register(cpu_, reg, next_rip());
    if (!value) {
        return not_emulated();
    }
    if (!is_canonical(*value, PagingMode::of(cpu_.sregs))) {
        return raise(general_protection());
    }
    segment.base = *value;
    cpu_.sregs_changed = true;
    return {};
}

// LAR, LSL, VERR, VERW: ZF tells whether the selector may be accessed. If not, that is no
// exception.
Executed Execution::segment_query() {
    const bool two = instruction_.id == X86_INS_LAR || instruction_.id == X86_INS_LSL;
    const cs_x86_op& source = x86_.operands[two ? 1 : 0];
    std::uint16_t selector = 0;
    if (source.type == X86_OP_REG) {
        const auto value = read_register(cpu_, source.reg, next_rip());
        if (!value) {
            return not_emulated();
        }
        selector = static_cast<std::uint16_t>(*value);
    } else {
        const auto address = memory_address();
        if (!address) {
            return std::unexpected(address.error());
        }
        if (const auto done = space_.read(*address, std::as_writable_bytes(std::span(&selector, 1)), access()); !done) {
            return raise(page_fault(done.error()));
        }
    }
    const auto answer = [&](bool found) -> Executed {
        cpu_.regs.rflags = found ? cpu_.regs.rflags | kFlagZero : cpu_.regs.rflags & ~kFlagZero;
        return {};
    };
    const bool local = (selector & 4) != 0;
    const unsigned offset = selector & 0xFFF8U;
    const std::uint64_t base = local ? cpu_.sregs.ldt.base : cpu_.sregs.gdt.base;
    const std::uint64_t limit = local ? cpu_.sregs.ldt.limit : cpu_.sregs.gdt.limit;
    if ((!local && offset == 0) || (local && cpu_.sregs.ldt.unusable != 0) || offset + 7 > limit) {
        return answer(false);
    }
    std::uint64_t descriptor = 0;
    // A supervisor access even at CPL 3: the tables may be on supervisor pages.
    if (const auto done =
            space_.read(base + offset, std::as_writable_bytes(std::span(&descriptor, 1)), {.user_pages_open = false});
        !done) {
        return raise(page_fault(done.error()));
    }
    const kvm_segment segment = x86::segment(selector, descriptor);
    const unsigned asking = std::max<unsigned>(cpu_.cpl(), selector & 3);
    if (!is_conforming(segment) && segment.dpl < asking) {
        return answer(false);
    }
    switch (instruction_.id) {
        case X86_INS_VERR: return answer(is_readable(segment));
        case X86_INS_VERW: return answer(is_writable(segment));
        default: break;
    }
    const unsigned type = segment.type;
    const bool rights = instruction_.id == X86_INS_LAR;
    const bool has_answer =
        segment.s != 0 || type == kLdt || type == kTssAvailable || type == kTssBusy || (rights && type == kCallGate);
    if (!has_answer) {
        return answer(false);
    }
    constexpr std::uint64_t kAccessRights = 0x00F0'FF00;  // in the upper half
    if (!write_register(cpu_, x86_.operands[0].reg, rights ? descriptor >> 32 & kAccessRights : segment.limit)) {
        return not_emulated();
    }
    return answer(true);
}

}  // namespace snapvm::emulate
