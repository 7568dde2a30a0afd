// SPDX-License-Identifier: Apache-2.0
// Guests that crash, and the reports of it by the machine and by the command.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/rig.h"
#include "tests/support/terminal_command.h"
#include "vmm/crash/report.h"

// Prints "bye\n", then faults without an IDT in the third of three functions.
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
// No KVM's emulator has x87 loads, and accesses to a device's memory go through the emulator on
// every host.
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
    if (report.vcpu_was_reset) {
        GTEST_SKIP() << "this host's KVM resets a vCPU that shuts down";
    }
    EXPECT_NE(text.find("R12 123456789abcdef0"), std::string::npos) << text;
    const auto current = std::ranges::find(report.code, report.code_address, &CrashReport::Instruction::address);
    ASSERT_NE(current, report.code.end()) << text;
    EXPECT_EQ(current->text, "ud2");
    EXPECT_EQ((current - 1)->text, "movabs r12, 0x123456789abcdef0");
    // The return addresses are each before a hlt; the innermost comes first.
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

class CliCrash : public Cli {
protected:
    /// Returns the words of `run` for a guest that prints "bye" and triple-faults.
    std::vector<std::string> run_crashing(std::vector<std::string> more) {
        const std::vector<std::byte> elf = tiny_elf({.code = triple_faults, .user = false});
        const std::string kernel = scratch_.file("kernel");
        std::ofstream(kernel, std::ios::binary)
            .write(reinterpret_cast<const char*>(elf.data()), static_cast<std::streamsize>(elf.size()));
        more.insert(more.begin(), {"run", "--kernel", kernel, "--mem", "2M", "--name", "c"});
        return more;
    }
    static json crash_in(const std::string& line) {
        const json parsed = json::parse(line, nullptr, false);
        return parsed.is_object() ? parsed.value("crash", json()) : json();
    }
    static void expect_report(const std::string& text) {
        EXPECT_NE(text.find("snapvm: c: the guest shut itself down by a triple fault"), std::string::npos) << text;
        for (const char* part :
             {"vCPU 0: KVM_EXIT_SHUTDOWN (8)", "  RAX ", "Last lines of the serial port:", "  bye"}) {
            EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
        }
    }
};

TEST_F(CliCrash, TheReportIsOnStderrBehindTheLineThatSaysWhy) {
    const CommandResult result = command(run_crashing({}));
    EXPECT_EQ(result.exit_code, 4);
    EXPECT_EQ(result.out, "bye\n");
    EXPECT_TRUE(result.err.starts_with("snapvm: c: ")) << result.err;
    expect_report(result.err);
}

TEST_F(CliCrash, AsJsonItIsOneLineWhereTheGuestIsNot) {
    const CommandResult mixed = command(run_crashing({"--json"}));
    EXPECT_EQ(mixed.exit_code, 4);
    EXPECT_EQ(mixed.out, "bye\n");
    const std::size_t last = mixed.err.rfind('\n', mixed.err.size() - 2);
    const json crash = crash_in(mixed.err.substr(last + 1));
    ASSERT_TRUE(crash.is_object()) << mixed.err;
    EXPECT_EQ(crash["consoles"]["serial port"], json::array({"bye"}));
    EXPECT_EQ(crash["exit"]["number"], 8);

    const CommandResult apart = command(run_crashing({"--json", "--serial", "none", "--console", "none"}));
    EXPECT_EQ(apart.exit_code, 4);
    EXPECT_EQ(apart.err, "snapvm: c: the guest shut itself down by a triple fault\n");
    ASSERT_GE(apart.out.size(), 2U);
    EXPECT_TRUE(crash_in(apart.out.substr(apart.out.rfind('\n', apart.out.size() - 2) + 1)).is_object()) << apart.out;
}

TEST_F(CliCrash, ADetachedMachinesIsInItsLogUntilTheNextOfThatName) {
    EXPECT_EQ(command(run_crashing({"-d"})).exit_code, 0);
    const std::string log = scratch_.file("run") + "/c/log";
    // The machine's process ends by itself.
    for (const auto until = soon(); !machines().empty();) {
        ASSERT_LT(SteadyClock::now(), until);
        std::this_thread::sleep_for(1ms);
    }
    const auto read = [&] {
        std::ifstream in(log);
        return std::string(std::istreambuf_iterator<char>(in), {});
    };
    expect_report(read());
    EXPECT_EQ(start("c").value("name", ""), "c") << "the name is free";
    EXPECT_EQ(read(), "");
    EXPECT_EQ(command({"stop", "c", "--force"}).exit_code, 0);
    EXPECT_FALSE(std::filesystem::exists(log)) << "it had nothing to say";
}

TEST_F(CliCrash, OnATerminalItIsShownWhenTheTerminalIsItselfAgain) {
    std::vector<std::string> arguments = run_crashing({});
    arguments.insert(arguments.end(), {"--run-dir", scratch_.file("run")});
    TerminalCommand terminal(arguments, 120, 50);
    EXPECT_TRUE(terminal.wait_for("KVM_EXIT_SHUTDOWN (8)")) << terminal.screen();
    // In raw mode a newline alone would not return to the first column.
    EXPECT_TRUE(terminal.wait_for("Last lines of the serial port:\r\n  bye\r\n")) << terminal.screen();
    EXPECT_EQ(terminal.exit_code(), 4);
}

}  // namespace
}  // namespace snapvm::test
