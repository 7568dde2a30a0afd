// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/system_call.h"

#include <array>

namespace snapvm::emulate {
namespace {

constexpr std::uint64_t kPrivilegeMask = 3;
// CF, PF, AF, ZF, SF, TF, IF, DF, OF, NT, AC and ID. IF is set in every program.
constexpr std::uint64_t kFlagsOfPrograms = 0x24'4FD5;

}  // namespace

std::optional<PageFaultFrame> fetch_of_program(const CpuState& cpu, const AddressSpace& space) {
    PageFaultFrame frame;
    const auto bytes = std::as_writable_bytes(std::span(&frame, 1));
    constexpr std::uint32_t kUserFetch = kFaultUser | kFaultFetch;
    if (space.peek(cpu.regs.rsp, bytes) != bytes.size() || (frame.error_code & kUserFetch) != kUserFetch ||
        (frame.cs & kPrivilegeMask) != 3 || frame.rip != cpu.sregs.cr2) {
        return std::nullopt;
    }
    return frame;
}

bool become_system_call(CpuState& cpu, const PageFaultFrame& fetch, const SystemCallMsrs& msrs,
                        const AddressSpace& space) {
    if (fetch.rip != msrs.lstar || msrs.lstar == 0 || (cpu.sregs.efer & kEferSystemCalls) == 0) {
        return false;
    }
    // The comparison also rejects addresses that are not canonical, with which some kernels fail at
    // SYSRET.
    constexpr std::array<std::byte, 2> kSyscall = {std::byte{0x0F}, std::byte{0x05}};
    std::array<std::byte, 2> before{};
    if (space.peek(cpu.regs.rcx - before.size(), before) != before.size() || before != kSyscall) {
        return false;
    }
    const auto selector = static_cast<std::uint16_t>((msrs.star >> 32) & 0xFFFC);
    cpu.sregs.cs = segment(selector, kCode64);
    cpu.sregs.ss = segment(static_cast<std::uint16_t>(selector + 8), kData);
    cpu.sregs_changed = true;
    cpu.regs.rip = msrs.lstar;
    cpu.regs.rsp = fetch.rsp;
    // RCX and R11 are as SYSCALL leaves them. The flags that the fault pushed are not the
    // program's, since the host's own FMASK has changed them.
    cpu.regs.r11 = (cpu.regs.r11 & kFlagsOfPrograms) | kFlagsFixed;
    cpu.regs.rflags = (cpu.regs.r11 & ~msrs.fmask) | kFlagsFixed;
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
