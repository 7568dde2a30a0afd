// SPDX-License-Identifier: Apache-2.0
// Guests that crash, and the reports of it.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "tests/kvm/rig.h"
#include "vmm/crash/report.h"

// Says "bye\n", and faults without an IDT in the third of three functions.
SNAPVM_TINY_CODE(triple_faults, R"(
    xor %ebp, %ebp
    call 1f
    hlt
1:  push %rbp
    mov %rsp, %rbp
    call 2f
    hlt
2:  push %rbp
    mov %rsp, %rbp
    call 3f
    hlt
3:  push %rbp
    mov %rsp, %rbp
    mov $0x3f8, %edx
    mov $0x62, %al
    out %al, %dx
    mov $0x79, %al
    out %al, %dx
    mov $0x65, %al
    out %al, %dx
    mov $10, %al
    out %al, %dx
    sub $16, %rsp
    movq $0, (%rsp)
    movq $0, 8(%rsp)
    lidt (%rsp)
    movabs $0x123456789abcdef0, %r12
    ud2
)");
// No KVM's emulator has x87 loads, and what touches a device's memory goes through the emulator on every host.
SNAPVM_TINY_CODE(cannot_be_emulated, R"(
    mov $0xd0000000, %edi
    fldl (%rdi)
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
1:  jmp 1b
)");
SNAPVM_TINY_CODE(reads_its_data, R"(
    mov (%rbx), %rax
    mov $0x5f4, %edx
    mov $9, %eax
    out %eax, %dx
1:  jmp 1b
)");

namespace snapvm::test {
namespace {

// AMD-V's KVM resets a vCPU that shuts down; there is nothing to see of the guest then.
bool was_reset(const std::string& text) { return text.find("has reset the vCPU") != std::string::npos; }

class CrashedMachines : public KvmTest {};

TEST_F(CrashedMachines, ATripleFaultIsReportedWithItsCodeFramesAndLastLines) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = triple_faults, .user = false});
    need(machine->resume());
    const Outcome outcome = wait_end(*machine);
    EXPECT_EQ(outcome.kind, Outcome::Kind::triple_fault) << outcome.name();
    ASSERT_NE(outcome.crash, nullptr);
    const CrashReport& report = *outcome.crash;
    EXPECT_EQ(report.ending.exit, static_cast<std::uint32_t>(KVM_EXIT_SHUTDOWN));
    ASSERT_EQ(report.consoles.size(), 1U);
    EXPECT_EQ(report.consoles[0].lines, std::vector<std::string>{"bye"});
    const std::string text = to_text(report);
    if (was_reset(text)) {
        GTEST_SKIP() << "this host's KVM resets a vCPU that shuts down";
    }
    EXPECT_NE(text.find("R12 123456789abcdef0"), std::string::npos) << text;
    const auto current = std::ranges::find(report.code, report.code_address, &CrashReport::Instruction::address);
    ASSERT_NE(current, report.code.end()) << text;
    EXPECT_EQ(current->text, "ud2");
    EXPECT_EQ((current - 1)->text, "movabs r12, 0x123456789abcdef0");
    // The functions' callers, each before a hlt, from the innermost out.
    ASSERT_EQ(report.backtrace.size(), 4U) << report.backtrace_end;
    EXPECT_EQ(report.backtrace[0].rip, report.regs->rip);
    for (std::size_t i = 1; i < 4; ++i) {
        EXPECT_EQ(need(machine->memory().load<std::uint8_t>(Gpa{report.backtrace[i].rip})), 0xF4) << text;
        EXPECT_LT(report.backtrace[i].rip, report.backtrace[i - 1].rip);
    }
}

TEST_F(CrashedMachines, AnInstructionThatKvmCannotEmulateIsShown) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = cannot_be_emulated, .user = false});
    need(machine->resume());
    const Outcome outcome = wait_end(*machine);
    EXPECT_EQ(outcome.kind, Outcome::Kind::failed) << outcome.name();
    EXPECT_EQ(outcome.exit_code(), 1);
    ASSERT_NE(outcome.crash, nullptr);
    const CrashReport& report = *outcome.crash;
    EXPECT_EQ(report.reason, outcome.error->message());
    EXPECT_EQ(report.ending.exit, static_cast<std::uint32_t>(KVM_EXIT_INTERNAL_ERROR));
    EXPECT_EQ(report.ending.detail, static_cast<std::uint64_t>(KVM_INTERNAL_ERROR_EMULATION));
    const auto current = std::ranges::find(report.code, report.code_address, &CrashReport::Instruction::address);
    ASSERT_NE(current, report.code.end()) << to_text(report);
    EXPECT_EQ(current->text, "fld qword ptr [rdi]") << to_text(report);
    EXPECT_EQ(report.regs->rdi, 0xD0000000U);
}

TEST_F(CrashedMachines, AKvmRunThatFailsIsReportedWithItsErrno) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = reads_its_data});
    const auto page = need(machine->memory().span(tiny::kData, kPageSize));
    ASSERT_EQ(::mprotect(page.data(), page.size(), PROT_NONE), 0);
    need(machine->resume());
    const Outcome outcome = wait_end(*machine);
    ASSERT_EQ(::mprotect(page.data(), page.size(), PROT_READ | PROT_WRITE), 0);
    EXPECT_EQ(outcome.kind, Outcome::Kind::failed) << outcome.name();
    ASSERT_NE(outcome.crash, nullptr);
    EXPECT_EQ(outcome.crash->ending.run_error, EFAULT) << outcome.crash->reason;
    EXPECT_EQ(outcome.crash->regs->rbx, tiny::kData.value);
}

TEST_F(CrashedMachines, ARunThatDoesNotFailHasNoReport) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = reads_its_data, .user = false});
    need(machine->resume());
    const Outcome outcome = wait_end(*machine);
    EXPECT_EQ(outcome.exit_code(), 9);
    EXPECT_EQ(outcome.crash, nullptr);
}

}  // namespace
}  // namespace snapvm::test
