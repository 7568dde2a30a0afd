// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/system_call.h"

#include <array>

namespace snapvm::emulate {
namespace {

constexpr std::uint64_t kEferSystemCalls = 1, kEferLongModeActive = 1ULL << 10;
constexpr std::uint32_t kFaultUser = 4, kFaultFetch = 16;
constexpr std::uint64_t kPrivilegeMask = 3;
// CF, PF, AF, ZF, SF, TF, IF, DF, OF, NT, AC and ID. IF is on in every program.
constexpr std::uint64_t kFlagsOfPrograms = 0x24'4FD5;

// What the page fault has pushed, lowest address first.
struct Frame {
    std::uint64_t error_code = 0, rip = 0, cs = 0, rflags = 0, rsp = 0, ss = 0;
};

kvm_segment flat(std::uint16_t selector, std::uint8_t type, bool code) {
    kvm_segment segment{};
    segment.limit = 0xFFFF'FFFF;
    segment.selector = selector;
    segment.type = type;
    segment.present = 1;
    segment.s = 1;
    segment.g = 1;
    segment.l = code ? 1 : 0;
    segment.db = code ? 0 : 1;
    return segment;
}

}  // namespace

bool is_fetch_of_program(const CpuState& cpu, const AddressSpace& space) {
    Frame frame;
    const auto bytes = std::as_writable_bytes(std::span(&frame, 1));
    constexpr std::uint32_t kUserFetch = kFaultUser | kFaultFetch;
    return space.peek(cpu.regs.rsp, bytes) == bytes.size() && (frame.error_code & kUserFetch) == kUserFetch &&
           frame.rip == cpu.sregs.cr2;
}

bool become_system_call(CpuState& cpu, const SystemCallMsrs& msrs, const AddressSpace& space) {
    if (cpu.sregs.cr2 != msrs.lstar || msrs.lstar == 0 || (cpu.sregs.efer & kEferSystemCalls) == 0) {
        return false;
    }
    Frame frame;
    const auto bytes = std::as_writable_bytes(std::span(&frame, 1));
    if (space.peek(cpu.regs.rsp, bytes) != bytes.size()) {
        return false;
    }
    constexpr std::uint32_t kUserFetch = kFaultUser | kFaultFetch;
    if ((frame.error_code & kUserFetch) != kUserFetch || frame.rip != msrs.lstar || (frame.cs & kPrivilegeMask) != 3) {
        return false;
    }
    // Also keeps addresses out that are not canonical, with which some kernels would fail at SYSRET.
    constexpr std::array<std::byte, 2> kSyscall = {std::byte{0x0F}, std::byte{0x05}};
    std::array<std::byte, 2> before{};
    if (space.peek(cpu.regs.rcx - before.size(), before) != before.size() || before != kSyscall) {
        return false;
    }
    constexpr std::uint8_t kCodeType = 11, kDataType = 3;  // execute and read, read and write; accessed
    const auto selector = static_cast<std::uint16_t>((msrs.star >> 32) & 0xFFFC);
    cpu.sregs.cs = flat(selector, kCodeType, /*code=*/true);
    cpu.sregs.ss = flat(static_cast<std::uint16_t>(selector + 8), kDataType, /*code=*/false);
    cpu.sregs_changed = true;
    cpu.regs.rip = msrs.lstar;
    cpu.regs.rsp = frame.rsp;
    // RCX and R11 are as SYSCALL leaves them. The flags that the fault has pushed are not the program's any more: the host's own FMASK has been
    // at them.
    cpu.regs.r11 = (cpu.regs.r11 & kFlagsOfPrograms) | 2;
    cpu.regs.rflags = (cpu.regs.r11 & ~msrs.fmask) | 2;
    return true;
}

std::optional<std::uint64_t> page_fault_entry(const kvm_sregs& sregs, const AddressSpace& space) {
    constexpr std::uint64_t kGateSize = 16;
    constexpr std::uint64_t kPresent = 1ULL << 47;
    if ((sregs.efer & kEferLongModeActive) == 0 || sregs.idt.limit < (kVectorPageFault + 1) * kGateSize - 1) {
        return std::nullopt;
    }
    std::array<std::uint64_t, 2> gate{};
    const auto bytes = std::as_writable_bytes(std::span(gate));
    if (space.peek(sregs.idt.base + kVectorPageFault * kGateSize, bytes) != bytes.size() || (gate[0] & kPresent) == 0) {
        return std::nullopt;
    }
    return (gate[0] & 0xFFFF) | (gate[0] >> 48 << 16) | (gate[1] << 32);
}

}  // namespace snapvm::emulate
