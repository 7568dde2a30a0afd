// SPDX-License-Identifier: Apache-2.0
// Kernel-mode instructions that a KVM without hardware virtualisation lacks. Guests that use them
// must run as on any other host, on which these tests pass without vmm/emulate.
#include <array>

#include "tests/kvm/rig.h"
#include "vmm/platform/platform.h"
#include "vmm/vcpu/guest_debug.h"

// All of this runs at CPL 0. RBX points to the counters.
SNAPVM_TINY_CODE(kernel_instructions, R"(
    fninit
    fwait
    mov $0xF0F0, %eax
    popcnt %rax, %rcx
    mov %rcx, (%rbx)
    movq $5, 0x100(%rbx)
    movq $6, 0x108(%rbx)
    push %rbx
    mov %rbx, %rdi
    mov $5, %eax
    mov $6, %edx
    mov $7, %ebx
    mov $8, %ecx
    lock cmpxchg16b 0x100(%rdi)
    pop %rbx
    jnz 1f
    rdrand %rax
    jnc 1f
    mov %rax, 8(%rbx)
    sti
    popcnt %rax, %rax
    cli
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
1:  mov $0x5f4, %edx
    mov $10, %eax
    out %eax, %dx
)");
// Extended state goes to memory in both forms, is lost, and comes back.
SNAPVM_TINY_CODE(kernel_extended_state, R"(
    mov %cr4, %rax
    or $0x40600, %rax
    mov %rax, %cr4
    mov %cr0, %rax
    and $-13, %rax
    or $2, %rax
    mov %rax, %cr0
    xor %ecx, %ecx
    mov $3, %eax
    xor %edx, %edx
    xsetbv
    movdqu 0x200(%rbx), %xmm5
    mov $-1, %eax
    mov $-1, %edx
    xsave64 0x1000(%rbx)
    xsavec64 0x2000(%rbx)
    movdqu 0x210(%rbx), %xmm5
    xrstor64 0x1000(%rbx)
    movdqu %xmm5, (%rbx)
    movdqu 0x210(%rbx), %xmm5
    xrstors64 0x2000(%rbx)
    movdqu %xmm5, 0x10(%rbx)
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");
#define LOAD_TABLES            \
    "sub $16, %rsp\n"          \
    "movw $0x5f, (%rsp)\n"     \
    "movq $0x40000, 2(%rsp)\n" \
    "lgdt (%rsp)\n"            \
    "movw $0xfff, (%rsp)\n"    \
    "movq $0x41000, 2(%rsp)\n" \
    "lidt (%rsp)\n"            \
    "add $16, %rsp\n"
SNAPVM_TINY_CODE(kernel_breakpoint, LOAD_TABLES R"(
    lea 1f(%rip), %rax
    mov %rax, 8(%rbx)
    int3
1:  mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");
SNAPVM_TINY_CODE(kernel_software_interrupt, LOAD_TABLES R"(
    lea 1f(%rip), %rax
    mov %rax, 8(%rbx)
    int $0x40
1:  mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");
// Stores the RIP that was pushed.
SNAPVM_TINY_CODE(keeps_rip, R"(
    push %rax
    mov 8(%rsp), %rax
    mov %rax, (%rbx)
    pop %rax
    iretq
)");
SNAPVM_TINY_CODE(kernel_page_fault, LOAD_TABLES R"(
    mov $0x700000000010, %rsi
    mov %rsi, 0x18(%rbx)
    popcnt (%rsi), %rax
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");
// Counts, stores error code and address, and skips the faulting instruction of five bytes.
SNAPVM_TINY_CODE(skips_five, R"(
    push %rax
    incq (%rbx)
    mov 8(%rsp), %rax
    mov %rax, 8(%rbx)
    mov %cr2, %rax
    mov %rax, 0x10(%rbx)
    pop %rax
    add $8, %rsp
    addq $5, (%rsp)
    iretq
)");

// Makes system calls at CPL 3, then faults on an unmapped supervisor page. The port access makes an
// exit at which the gate of page faults is found. A real kernel has had thousands of exits before
// it starts a program.
SNAPVM_TINY_CODE(user_system_calls, R"(
    mov $0x700, %edx
    in %dx, %al
    mov $3, %r12d
    mov $0x1110, %eax
1:  syscall
    dec %r12d
    jnz 1b
    mov %rax, 0x20(%rbx)
    pushfq
    pop 0x28(%rbx)
    movabs $0xffff800000000000, %rdi
    mov 8(%rdi), %rax
    movq $1, 0x48(%rbx)
2:  jmp 2b
)");
SNAPVM_TINY_CODE(user_system_calls_for_ever, R"(
    mov $0x700, %edx
    in %dx, %al
1:  syscall
    jmp 1b
)");
// The code at LSTAR.
SNAPVM_TINY_CODE(system_call_entry, R"(
    incq (%rbx)
    mov %cs, %r8
    mov %r8, 8(%rbx)
    mov %ss, %r8
    mov %r8, 0x10(%rbx)
    pushfq
    pop 0x18(%rbx)
    inc %rax
    sysretq
)");
// Handles page faults at CPL 3 by an instruction of four bytes.
#define COUNT_PAGE_FAULT     \
    "push %rax\n"            \
    "incq 0x30(%rbx)\n"      \
    "mov 8(%rsp), %rax\n"    \
    "mov %rax, 0x38(%rbx)\n" \
    "mov %cr2, %rax\n"       \
    "mov %rax, 0x40(%rbx)\n" \
    "pop %rax\n"             \
    "add $8, %rsp\n"         \
    "addq $4, (%rsp)\n"      \
    "iretq\n"
SNAPVM_TINY_CODE(counts_page_faults, "cld\n" COUNT_PAGE_FAULT);
// Starts with code that emulation does not step over, so that the vCPU is single-stepped.
SNAPVM_TINY_CODE(counts_page_faults_pushing_first, COUNT_PAGE_FAULT);
// The program steps itself twice and then executes INT1.
SNAPVM_TINY_CODE(user_steps, R"(
    mov $0x700, %edx
    in %dx, %al
    pushfq
    orq $0x100, (%rsp)
    popfq
    nop
    nop
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");
SNAPVM_TINY_CODE(user_int1, R"(
    mov $0x700, %edx
    in %dx, %al
    .byte 0xf1
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");
// Counts; after the second trap single-stepping ends. Some KVMs (seen on an AMD EPYC without AMD-V)
// leave INT1 itself as the return address of its trap, which would then repeat for ever. The
// handler skips it and counts that separately.
SNAPVM_TINY_CODE(counts_debug_traps, R"(
    incq (%rbx)
    mov (%rsp), %rax
    cmpb $0xf1, (%rax)
    jne 1f
    incq (%rsp)
    incq 8(%rbx)
1:  cmpq $2, (%rbx)
    jb 2f
    andq $-257, 0x10(%rsp)
2:  iretq
)");
SNAPVM_TINY_CODE(two_places, R"(
    nop
    nop
    nop
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
)");

namespace snapvm::test {
namespace {

class KernelMode : public KvmTest {
protected:
    static std::uint64_t counter(const Machine& machine, std::uint64_t index) {
        return need(machine.memory().load<std::uint64_t>(tiny::kData + index * 8));
    }
    static void expect_end(Machine& machine) {
        const Outcome outcome = wait_end(machine);
        EXPECT_EQ(outcome.kind, Outcome::Kind::guest_exit)
            << outcome.name() << (outcome.error ? outcome.error->message() : "");
        EXPECT_EQ(outcome.exit_code(), 9);
    }
    static std::unique_ptr<Machine> ended(const TinyGuest& guest) {
        std::unique_ptr<Machine> machine = tiny_machine(system(), guest);
        need(machine->resume());
        expect_end(*machine);
        return machine;
    }
};

TEST_F(KernelMode, InstructionsThatAnEmulatorLacks) {
    const auto machine = ended({.code = kernel_instructions, .user = false});
    EXPECT_EQ(counter(*machine, 0), 8U);
    EXPECT_NE(counter(*machine, 1), 0U);
    EXPECT_EQ(need(machine->memory().load<std::uint64_t>(tiny::kData + 0x100)), 7U);
    EXPECT_EQ(need(machine->memory().load<std::uint64_t>(tiny::kData + 0x108)), 8U);
}

TEST_F(KernelMode, ExtendedStateSurvivesMemory) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = kernel_extended_state, .user = false});
    constexpr std::array<std::uint64_t, 2> kFirst = {0x1122334455667788, 0x99AABBCCDDEEFF00};
    need(machine->memory().store(tiny::kData + 0x200, kFirst));
    need(machine->memory().store(tiny::kData + 0x210, std::array<std::uint64_t, 2>{1, 2}));
    need(machine->resume());
    expect_end(*machine);
    EXPECT_EQ(need(machine->memory().load<std::array<std::uint64_t, 2>>(tiny::kData)), kFirst);
    EXPECT_EQ(need(machine->memory().load<std::array<std::uint64_t, 2>>(tiny::kData + 0x10)), kFirst);
    const auto compaction = need(machine->memory().load<std::uint64_t>(tiny::kData + 0x2000 + 520));
    EXPECT_EQ(compaction, (1ULL << 63) | 3);
}

TEST_F(KernelMode, TrapsReturnBehindTheInstruction) {
    const auto breakpoint = ended({.code = kernel_breakpoint, .user = false, .vector = 3, .handler = &keeps_rip});
    EXPECT_EQ(counter(*breakpoint, 0), counter(*breakpoint, 1));
    const auto interrupt =
        ended({.code = kernel_software_interrupt, .user = false, .vector = 0x40, .handler = &keeps_rip});
    EXPECT_EQ(counter(*interrupt, 0), counter(*interrupt, 1));
}

TEST_F(KernelMode, PageFaultOfSuchAnInstructionIsTheGuests) {
    const auto machine = ended({.code = kernel_page_fault, .user = false, .vector = 14, .handler = &skips_five});
    EXPECT_EQ(counter(*machine, 0), 1U);
    EXPECT_EQ(counter(*machine, 1), 0U);
    EXPECT_EQ(counter(*machine, 2), 0x7000'0000'0010U);
}

// System calls of a program whose kernel has an address space of its own, which programs cannot
// access.
class SystemCalls : public KernelMode {
protected:
    static constexpr Gpa kEntry = tiny::kHandlers + 0x1000;
    static constexpr std::uint64_t kKernelHalf = 0xFFFF'8000'0000'0000;

    static void prepare(GuestMemory& memory, kvm::VcpuFd& vcpu) {
        constexpr std::uint64_t kPresentWritable = 3, kLarge = 0x80;
        constexpr Gpa kDirectoryPointers{0x90000}, kDirectory{0x91000};
        need(memory.store(platform::kPageTables + 256 * 8, kDirectoryPointers.value | kPresentWritable));
        need(memory.store(kDirectoryPointers, kDirectory.value | kPresentWritable));
        need(memory.store(kDirectory, kPresentWritable | kLarge));
        // SYSRET loads the selectors after this one. Its stack segment must be accessible to
        // programs for a later IRET.
        need(memory.store(tiny::kGdt + 0x18, std::uint64_t{0x00CF'F300'0000'FFFF}));
        need(memory.write(kEntry, system_call_entry.bytes()));
        auto sregs = need(vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS"));
        sregs.efer |= 1;
        need(vcpu.set(KVM_SET_SREGS, sregs, "KVM_SET_SREGS"));
        const std::array<kvm_msr_entry, 3> msrs = {{
            {.index = 0xC0000081, .reserved = 0, .data = 0x0010'0010'0000'0000},
            {.index = 0xC0000082, .reserved = 0, .data = kKernelHalf + kEntry.value},
            {.index = 0xC0000084, .reserved = 0, .data = 0x700},  // TF, IF, DF
        }};
        EXPECT_EQ(need(vcpu.set_msrs(msrs)), msrs.size());
    }
    static void expect_calls_and_a_fault(const TinyCode& handler) {
        Rig rig(system(), {.code = user_system_calls, .user = true, .vector = 14, .handler = &handler});
        prepare(rig.memory(), rig.vcpus().vcpus().front());
        need(rig.vcpus().start());
        EXPECT_TRUE(eventually([&] { return rig.counter(9) != 0 || !rig.trouble().empty(); }))
            << "it does not come to the end";
        rig.vcpus().pause();
        EXPECT_EQ(rig.trouble(), "");
        EXPECT_EQ(rig.counter(0), 3U);
        EXPECT_EQ(rig.counter(1), 0x10U);
        EXPECT_EQ(rig.counter(2), 0x18U);
        EXPECT_EQ(rig.counter(3) & 0x200, 0U) << "interrupts are off in the kernel";
        EXPECT_EQ(rig.counter(4), 0x1113U);
        EXPECT_NE(rig.counter(5) & 0x200, 0U) << "and on again in the program";
        EXPECT_EQ(rig.counter(6), 1U);
        // A program's access that is no fetch. Some hosts sometimes report that the page was not
        // present.
        EXPECT_EQ(rig.counter(7) & 0x14, 4U);
        EXPECT_EQ(rig.counter(8), kKernelHalf + 8);
    }
};

TEST_F(SystemCalls, ReachTheKernelAndPageFaultsDoToo) { expect_calls_and_a_fault(counts_page_faults); }

TEST_F(SystemCalls, WhateverThePageFaultHandlerStartsWith) {
    expect_calls_and_a_fault(counts_page_faults_pushing_first);
}

TEST_F(SystemCalls, GoOnInAnotherMachine) {
    Rig rig(system(), {.code = user_system_calls_for_ever, .user = true, .vector = 14, .handler = &counts_page_faults});
    prepare(rig.memory(), rig.vcpus().vcpus().front());
    need(rig.vcpus().start());
    for (int i = 0; i < 5; ++i) {
        const std::uint64_t before = rig.counter(0);
        EXPECT_TRUE(eventually([&] { return rig.counter(0) > before + 10 || !rig.trouble().empty(); }));
        rig.vcpus().pause();
        rig.move_to_new_vm();
        need(rig.vcpus().start());
    }
    EXPECT_EQ(rig.trouble(), "");
    EXPECT_EQ(rig.counter(6), 0U);
}

// While the repair has its breakpoint, KVM reports the guest's own debug traps to it too.
class DebugTraps : public KernelMode {
protected:
    // A guest with a gate of page faults, which makes the repair set its breakpoint, has run to its
    // end.
    std::unique_ptr<Machine> run(const TinyCode& code) {
        auto machine =
            tiny_machine(system(), {.code = code, .user = true, .vector = 1, .handler = &counts_debug_traps});
        const auto gate = need(machine->memory().load<std::array<std::uint64_t, 2>>(tiny::kIdt + 1 * 16));
        need(machine->memory().store(tiny::kIdt + 14 * 16, gate));
        need(machine->resume());
        expect_end(*machine);
        return machine;
    }
};

TEST_F(DebugTraps, OfAProgramsStepsAreTheGuests) { EXPECT_EQ(counter(*run(user_steps), 0), 2U); }

TEST_F(DebugTraps, OfInt1AreTheGuests) {
    const std::unique_ptr<Machine> machine = run(user_int1);
    EXPECT_EQ(counter(*machine, 0), 1U);
    EXPECT_LE(counter(*machine, 1), 1U);
}

// A debugger's breakpoint exists beside the repair's. Each is found by its address and removed
// separately.
TEST_F(KernelMode, BreakpointsHaveOneOwnerEach) {
    Rig rig(system(), {.code = two_places, .user = false});
    kvm::VcpuFd& vcpu = rig.vcpus().vcpus().front();
    const std::uint64_t start = need(vcpu.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS")).rip;
    constexpr std::uint64_t kPrologue = 10;  // two moves of five bytes
    GuestDebug debug;
    need(debug.set_breakpoint(vcpu, BreakpointUser::page_fault_entry, start + kPrologue + 2));
    need(debug.set_breakpoint(vcpu, BreakpointUser::debugger0, start + kPrologue + 1));
    ASSERT_EQ(vcpu.run(), 0);
    ASSERT_EQ(vcpu.shared().exit_reason, static_cast<std::uint32_t>(KVM_EXIT_DEBUG));
    EXPECT_EQ(vcpu.shared().debug.arch.pc, start + kPrologue + 1);
    need(debug.set_breakpoint(vcpu, BreakpointUser::debugger0, std::nullopt));
    ASSERT_EQ(vcpu.run(), 0);
    ASSERT_EQ(vcpu.shared().exit_reason, static_cast<std::uint32_t>(KVM_EXIT_DEBUG));
    EXPECT_EQ(vcpu.shared().debug.arch.pc, start + kPrologue + 2);
    need(debug.set_breakpoint(vcpu, BreakpointUser::page_fault_entry, std::nullopt));
    ASSERT_EQ(vcpu.run(), 0);
    EXPECT_EQ(vcpu.shared().exit_reason, static_cast<std::uint32_t>(KVM_EXIT_IO));
}

}  // namespace
}  // namespace snapvm::test
