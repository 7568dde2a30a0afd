// SPDX-License-Identifier: Apache-2.0
#include "vmm/crash/names.h"

#include <cstdio>

namespace snapvm::crash {

std::string_view exit_name(std::uint32_t exit) {
    constexpr std::uint32_t kMemoryFault = 39;  // newer than Debian 12's header
    switch (exit) {
        case KVM_EXIT_UNKNOWN: return "KVM_EXIT_UNKNOWN";
        case KVM_EXIT_EXCEPTION: return "KVM_EXIT_EXCEPTION";
        case KVM_EXIT_IO: return "KVM_EXIT_IO";
        case KVM_EXIT_HYPERCALL: return "KVM_EXIT_HYPERCALL";
        case KVM_EXIT_DEBUG: return "KVM_EXIT_DEBUG";
        case KVM_EXIT_HLT: return "KVM_EXIT_HLT";
        case KVM_EXIT_MMIO: return "KVM_EXIT_MMIO";
        case KVM_EXIT_IRQ_WINDOW_OPEN: return "KVM_EXIT_IRQ_WINDOW_OPEN";
        case KVM_EXIT_SHUTDOWN: return "KVM_EXIT_SHUTDOWN";
        case KVM_EXIT_FAIL_ENTRY: return "KVM_EXIT_FAIL_ENTRY";
        case KVM_EXIT_INTR: return "KVM_EXIT_INTR";
        case KVM_EXIT_SET_TPR: return "KVM_EXIT_SET_TPR";
        case KVM_EXIT_TPR_ACCESS: return "KVM_EXIT_TPR_ACCESS";
        case KVM_EXIT_NMI: return "KVM_EXIT_NMI";
        case KVM_EXIT_INTERNAL_ERROR: return "KVM_EXIT_INTERNAL_ERROR";
        case KVM_EXIT_SYSTEM_EVENT: return "KVM_EXIT_SYSTEM_EVENT";
        case KVM_EXIT_IOAPIC_EOI: return "KVM_EXIT_IOAPIC_EOI";
        case KVM_EXIT_HYPERV: return "KVM_EXIT_HYPERV";
        case KVM_EXIT_X86_RDMSR: return "KVM_EXIT_X86_RDMSR";
        case KVM_EXIT_X86_WRMSR: return "KVM_EXIT_X86_WRMSR";
        case KVM_EXIT_DIRTY_RING_FULL: return "KVM_EXIT_DIRTY_RING_FULL";
        case KVM_EXIT_AP_RESET_HOLD: return "KVM_EXIT_AP_RESET_HOLD";
        case KVM_EXIT_X86_BUS_LOCK: return "KVM_EXIT_X86_BUS_LOCK";
        case KVM_EXIT_XEN: return "KVM_EXIT_XEN";
        case KVM_EXIT_NOTIFY: return "KVM_EXIT_NOTIFY";
        case kMemoryFault: return "KVM_EXIT_MEMORY_FAULT";
        default: return "unknown";
    }
}

std::string_view suberror_name(std::uint64_t suberror) {
    switch (suberror) {
        case KVM_INTERNAL_ERROR_EMULATION: return "KVM_INTERNAL_ERROR_EMULATION";
        case KVM_INTERNAL_ERROR_SIMUL_EX: return "KVM_INTERNAL_ERROR_SIMUL_EX";
        case KVM_INTERNAL_ERROR_DELIVERY_EV: return "KVM_INTERNAL_ERROR_DELIVERY_EV";
        case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON";
        default: return "unknown";
    }
}

std::array<NamedValue, 18> general_registers(const kvm_regs& regs) {
    return {{{"RAX", regs.rax},
             {"RBX", regs.rbx},
             {"RCX", regs.rcx},
             {"RDX", regs.rdx},
             {"RSI", regs.rsi},
             {"RDI", regs.rdi},
             {"RBP", regs.rbp},
             {"RSP", regs.rsp},
             {"R8", regs.r8},
             {"R9", regs.r9},
             {"R10", regs.r10},
             {"R11", regs.r11},
             {"R12", regs.r12},
             {"R13", regs.r13},
             {"R14", regs.r14},
             {"R15", regs.r15},
             {"RIP", regs.rip},
             {"RFLAGS", regs.rflags}}};
}

std::array<NamedValue, 5> control_registers(const kvm_sregs& sregs) {
    return {{{"CR0", sregs.cr0}, {"CR2", sregs.cr2}, {"CR3", sregs.cr3}, {"CR4", sregs.cr4}, {"EFER", sregs.efer}}};
}

std::array<std::pair<const char*, kvm_segment>, 8> segments(const kvm_sregs& sregs) {
    return {{{"CS", sregs.cs},
             {"DS", sregs.ds},
             {"ES", sregs.es},
             {"FS", sregs.fs},
             {"GS", sregs.gs},
             {"SS", sregs.ss},
             {"TR", sregs.tr},
             {"LDT", sregs.ldt}}};
}

std::array<std::pair<const char*, kvm_dtable>, 2> tables(const kvm_sregs& sregs) {
    return {{{"GDT", sregs.gdt}, {"IDT", sregs.idt}}};
}

std::uint16_t attributes(const kvm_segment& segment) {
    return static_cast<std::uint16_t>((segment.type & 15) | (segment.s & 1) << 4 | (segment.dpl & 3) << 5 |
                                      (segment.present & 1) << 7 | (segment.avl & 1) << 12 | (segment.l & 1) << 13 |
                                      (segment.db & 1) << 14 | (segment.g & 1) << 15);
}

std::string hex(std::uint64_t value, int digits) {
    std::array<char, 24> text;
    std::snprintf(text.data(), text.size(), "%0*llx", digits, static_cast<unsigned long long>(value));
    return text.data();
}

std::string hex_bytes(const std::vector<std::byte>& bytes, std::string_view between) {
    std::string text;
    for (const std::byte byte : bytes) {
        if (!text.empty()) {
            text += between;
        }
        text += hex(static_cast<std::uint64_t>(byte), 2);
    }
    return text;
}

}  // namespace snapvm::crash
