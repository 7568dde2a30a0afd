// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/instructions.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "vmm/emulate/execution.h"
#include "vmm/emulate/operand.h"

namespace snapvm::emulate {
namespace {

constexpr std::uint64_t kArithmeticFlags =
    kFlagCarry | kFlagParity | kFlagAdjust | kFlagZero | kFlagSign | kFlagOverflow;

// Uses the processor's own instruction on guest memory, since other vCPUs may access it at the same
// time, with or without LOCK.
bool compare_exchange(std::span<std::byte> at, std::uint64_t& low, std::uint64_t& high, std::uint64_t new_low,
                      std::uint64_t new_high) {
    bool equal = false;
    asm volatile("lock cmpxchg16b %1"
                 : "=@ccz"(equal), "+m"(*reinterpret_cast<unsigned __int128*>(at.data())), "+a"(low), "+d"(high)
                 : "b"(new_low), "c"(new_high)
                 : "memory");
    return equal;
}

bool starts_with(std::span<const std::byte> bytes, std::initializer_list<std::uint8_t> pattern) {
    return bytes.size() >= pattern.size() &&
           std::ranges::equal(bytes.first(pattern.size()), pattern, {},
                              [](std::byte byte) { return std::to_integer<std::uint8_t>(byte); });
}

}  // namespace

std::expected<std::uint64_t, NotDone> Execution::memory_address() const {
    for (const cs_x86_op& operand : std::span(x86_.operands, x86_.op_count)) {
        if (operand.type != X86_OP_MEM) {
            continue;
        }
        const auto address = linear_address(cpu_, instruction_, operand.mem);
        if (!address) {
            return not_emulated();
        }
        const std::uint64_t last = *address + std::max<std::uint64_t>(operand.size, 1) - 1;
        const PagingMode mode = PagingMode::of(cpu_.sregs);
        if (!is_canonical(*address, mode) || !is_canonical(last, mode)) {
            const bool stack = operand.mem.segment == X86_REG_SS ||
                               (operand.mem.segment == X86_REG_INVALID && is_stack_base(operand.mem.base));
            return raise(stack ? Exception{.vector = kVectorStackFault, .error_code = 0} : general_protection());
        }
        return *address;
    }
    return not_emulated();
}

Executed Execution::trap(std::uint8_t vector, bool software_interrupt) {
    cpu_.regs.rip = next_rip();
    return raise({.vector = vector, .after = true, .software_interrupt = software_interrupt});
}

// WAIT raises a pending x87 exception. KVM executes all other x87 instructions.
Executed Execution::wait() {
    constexpr std::uint64_t kBoth = kCr0MonitorCoprocessor | kCr0TaskSwitched;
    if ((cpu_.sregs.cr0 & kBoth) == kBoth) {
        return raise(device_not_available());
    }
    const auto image = extended_.load();
    if (!image) {
        return host_failed(image.error());
    }
    constexpr std::size_t kStatusAt = 2;
    constexpr std::uint16_t kErrorSummary = 1 << 7;
    std::uint16_t status = 0;
    std::memcpy(&status, image->data() + kStatusAt, sizeof status);
    if ((status & kErrorSummary) != 0) {
        return raise({.vector = kVectorX87});
    }
    return {};
}

Executed Execution::set_alignment_check(bool on) {
    if (cpu_.cpl() != 0) {
        return raise(invalid_opcode());
    }
    cpu_.regs.rflags = on ? cpu_.regs.rflags | kFlagAlignmentCheck : cpu_.regs.rflags & ~kFlagAlignmentCheck;
    return {};
}

Executed Execution::count_bits() {
    const cs_x86_op& target = x86_.operands[0];
    const cs_x86_op& source = x86_.operands[1];
    if (x86_.op_count != 2 || target.type != X86_OP_REG) {
        return not_emulated();
    }
    std::uint64_t value = 0;
    if (source.type == X86_OP_REG) {
        const auto found = read_register(cpu_, source.reg, next_rip());
        if (!found) {
            return not_emulated();
        }
        value = *found;
    } else {
        const auto address = memory_address();
        if (!address) {
            return std::unexpected(address.error());
        }
        const auto bytes =
            std::as_writable_bytes(std::span(&value, 1)).first(std::min<std::size_t>(source.size, sizeof value));
        if (const auto done = space_.read(*address, bytes, access()); !done) {
            return raise(page_fault(done.error()));
        }
    }
    if (!write_register(cpu_, target.reg, static_cast<std::uint64_t>(std::popcount(value)))) {
        return not_emulated();
    }
    cpu_.regs.rflags = (cpu_.regs.rflags & ~kArithmeticFlags) | (value == 0 ? kFlagZero : 0);
    return {};
}

Executed Execution::compare_exchange_16() {
    const auto address = memory_address();
    if (!address) {
        return std::unexpected(address.error());
    }
    if (*address % 16 != 0) {
        return raise(general_protection());
    }
    Access wanted = access();
    wanted.write = true;
    const auto found = space_.span(*address, 16, wanted);
    if (!found) {
        return raise(page_fault(found.error()));
    }
    if (found->bytes.empty()) {
        return not_emulated();  // not on memory
    }
    std::uint64_t low = cpu_.regs.rax, high = cpu_.regs.rdx;
    if (compare_exchange(found->bytes, low, high, cpu_.regs.rbx, cpu_.regs.rcx)) {
        cpu_.regs.rflags |= kFlagZero;
        space_.mark_written(*found);
    } else {
        cpu_.regs.rflags &= ~kFlagZero;
        cpu_.regs.rax = low;
        cpu_.regs.rdx = high;
    }
    return {};
}

Executed Execution::random() {
    std::uint64_t value = 0;
    if (::getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) {
        return host_failed(Error::system("getrandom", "", errno));
    }
    if (!write_register(cpu_, x86_.operands[0].reg, value)) {
        return not_emulated();
    }
    cpu_.regs.rflags = (cpu_.regs.rflags & ~kArithmeticFlags) | kFlagCarry;
    return {};
}

Executed Execution::get_extended_control() {
    if ((cpu_.sregs.cr4 & kCr4Osxsave) == 0) {
        return raise(invalid_opcode());
    }
    const auto selector = static_cast<std::uint32_t>(cpu_.regs.rcx);
    if (selector > 1) {
        return raise(general_protection());
    }
    const auto xcr0 = extended_.xcr0();
    if (!xcr0) {
        return host_failed(xcr0.error());
    }
    std::uint64_t value = *xcr0;
    if (selector == 1) {  // XCR0 and the components in use
        const auto image = extended_.load();
        if (!image) {
            return host_failed(image.error());
        }
        std::uint64_t in_use = 0;
        std::memcpy(&in_use, image->data() + 512, sizeof in_use);
        value &= in_use;
    }
    cpu_.regs.rax = value & 0xFFFF'FFFF;
    cpu_.regs.rdx = value >> 32;
    return {};
}

Executed Execution::extended_state(bool privileged, const std::function<Executed(std::uint64_t)>& work) {
    if ((cpu_.sregs.cr4 & kCr4Osxsave) == 0) {
        return raise(invalid_opcode());
    }
    if (privileged && cpu_.cpl() != 0) {
        return raise(general_protection());
    }
    if ((cpu_.sregs.cr0 & kCr0TaskSwitched) != 0) {
        return raise(device_not_available());
    }
    const auto address = memory_address();
    return address ? work(*address) : std::unexpected(address.error());
}

Executed Execution::save(SaveKind kind) {
    return extended_state(kind == SaveKind::xsaves, [&](std::uint64_t address) {
        return save_extended_state(kind, address, edx_eax(), space_, access(), extended_);
    });
}

Executed Execution::restore(RestoreKind kind) {
    return extended_state(kind == RestoreKind::xrstors, [&](std::uint64_t address) {
        return restore_extended_state(kind, address, edx_eax(), space_, access(), extended_);
    });
}

Executed Execution::run() {
    switch (instruction_.id) {
        case X86_INS_INT3: return trap(kVectorBreakpoint, false);
        case X86_INS_INT: return trap(static_cast<std::uint8_t>(x86_.operands[0].imm), true);
        case X86_INS_WAIT: return wait();
        case X86_INS_CLAC: return set_alignment_check(false);
        case X86_INS_STAC: return set_alignment_check(true);
        case X86_INS_POPCNT: return count_bits();
        case X86_INS_CMPXCHG16B: return compare_exchange_16();
        case X86_INS_RDRAND: return random();
        // Capstone decodes RDPID, which is RDSEED with a REP prefix, as RDSEED.
        case X86_INS_RDSEED: return instruction_.bytes[0] == X86_PREFIX_REP ? not_emulated() : random();
        case X86_INS_XGETBV: return get_extended_control();
        case X86_INS_RDFSBASE:
        case X86_INS_RDGSBASE:
        case X86_INS_WRFSBASE:
        case X86_INS_WRGSBASE: return segment_base();
        case X86_INS_LAR:
        case X86_INS_LSL:
        case X86_INS_VERR:
        case X86_INS_VERW: return segment_query();
        case X86_INS_XSAVE:
        case X86_INS_XSAVE64: return save(SaveKind::xsave);
        case X86_INS_XSAVEOPT:
        case X86_INS_XSAVEOPT64: return save(SaveKind::xsaveopt);
        case X86_INS_XSAVEC:
        case X86_INS_XSAVEC64: return save(SaveKind::xsavec);
        case X86_INS_XSAVES:
        case X86_INS_XSAVES64: return save(SaveKind::xsaves);
        case X86_INS_XRSTOR:
        case X86_INS_XRSTOR64: return restore(RestoreKind::xrstor);
        case X86_INS_XRSTORS:
        case X86_INS_XRSTORS64: return restore(RestoreKind::xrstors);
        // These occur at the entry of page fault handlers. The repair carries out the instruction
        // under its breakpoint.
        case X86_INS_CLD: cpu_.regs.rflags &= ~kFlagDirection; return {};
        case X86_INS_NOP:
        case X86_INS_ENDBR64: return {};
        default: return not_emulated();
    }
}

Executed execute(const cs_insn* instruction, std::span<const std::byte> bytes, CpuState& cpu, AddressSpace& space,
                 ExtendedState& extended) {
    constexpr std::size_t kProtectionKeysSize = 3;
    const CpuState before = cpu;
    std::size_t size = kProtectionKeysSize;
    // Capstone 4 does not know RDPKRU and WRPKRU.
    Executed done = not_emulated();
    if (starts_with(bytes, {0x0F, 0x01, 0xEE})) {
        done = access_protection_keys(/*write=*/false, cpu, extended);
    } else if (starts_with(bytes, {0x0F, 0x01, 0xEF})) {
        done = access_protection_keys(/*write=*/true, cpu, extended);
    } else if (instruction != nullptr) {
        size = instruction->size;
        done = Execution(*instruction, cpu, space, extended).run();
    }
    if (done) {
        cpu.regs.rip = before.regs.rip + size;
        cpu.regs.rflags &= ~kFlagResume;
    } else if (const auto* exception = std::get_if<Exception>(&done.error());
               exception == nullptr || !exception->after) {
        cpu = before;
    }
    return done;
}

}  // namespace snapvm::emulate
