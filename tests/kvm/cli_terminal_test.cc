// SPDX-License-Identifier: Apache-2.0
// `run` on a terminal: the guest has keyboard and screen, and afterwards the terminal has its old
// settings.
#include <signal.h>

#include <fstream>
#include <thread>

#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/harness.h"
#include "tests/kvm/tiny_guest.h"
#include "tests/support/terminal_command.h"

// A driver of the virtio console, which is the only device. Prints the terminal's size as
// [RRRRCCCC] in hexadecimal at the start and whenever it changes, and echoes input. The queues are
// at 0x90000 and 0x94000 and have one buffer each, descriptor 0. ESI and EBP count the buffers
// offered.
SNAPVM_TINY_CODE(echoes_on_console, R"(
    mov $0xd0000000, %edi
    movl $1, 0x70(%rdi)
    movl $3, 0x70(%rdi)
    movl $0, 0x24(%rdi)
    movl $1, 0x20(%rdi)
    movl $1, 0x24(%rdi)
    movl $1, 0x20(%rdi)
    movl $11, 0x70(%rdi)
    movl $0, 0x30(%rdi)
    movl $8, 0x38(%rdi)
    movl $0x90000, 0x80(%rdi)
    movl $0x91000, 0x90(%rdi)
    movl $0x92000, 0xa0(%rdi)
    movl $1, 0x44(%rdi)
    movl $1, 0x30(%rdi)
    movl $8, 0x38(%rdi)
    movl $0x94000, 0x80(%rdi)
    movl $0x95000, 0x90(%rdi)
    movl $0x96000, 0xa0(%rdi)
    movl $1, 0x44(%rdi)
    movl $15, 0x70(%rdi)
    movl $0xa0000, 0x90000
    movl $64, 0x90008
    movw $2, 0x9000c
    xor %esi, %esi
    xor %ebp, %ebp
    call 5f
1:  inc %esi
    mov %si, 0x91002
    movl $0, 0x50(%rdi)
2:  mov 0x60(%rdi), %eax
    test $2, %eax
    jz 3f
    call 5f
3:  cmp %si, 0x92002
    jne 2b
    lea -1(%rsi), %eax
    and $7, %eax
    mov 0x92008(,%rax,8), %ecx
    mov $0xa0000, %eax
    call 7f
    jmp 1b
5:  movl $2, 0x64(%rdi)
    mov 0x100(%rdi), %edx
    mov $0xa1000, %ebx
    movb $0x5b, (%rbx)
    mov $8, %ecx
6:  rol $4, %edx
    mov %edx, %eax
    and $15, %eax
    add $0x30, %eax
    cmp $0x3a, %eax
    jb 4f
    add $0x27, %eax
4:  inc %ebx
    mov %al, (%rbx)
    dec %ecx
    jnz 6b
    movb $0x5d, 1(%rbx)
    mov $0xa1000, %eax
    mov $10, %ecx
7:  mov %eax, 0x94000
    mov %ecx, 0x94008
    inc %ebp
    mov %bp, 0x95002
    movl $1, 0x50(%rdi)
8:  cmp %bp, 0x96002
    jne 8b
    ret
)");

namespace snapvm::test {
namespace {

bool is_raw(const termios& settings) { return (settings.c_lflag & static_cast<tcflag_t>(ICANON | ECHO | ISIG)) == 0; }

class CliTerminal : public Cli {
protected:
    TerminalCommand on_terminal(std::vector<std::string> arguments) {
        arguments.insert(arguments.end(), {"--run-dir", scratch_.file("run")});
        return {arguments, 100, 30};
    }
    /// Runs the guest above, with the console on the terminal.
    TerminalCommand console_guest() {
        const std::vector<std::byte> elf = tiny_elf({.code = echoes_on_console, .user = false});
        const std::string kernel = scratch_.file("kernel");
        std::ofstream(kernel, std::ios::binary)
            .write(reinterpret_cast<const char*>(elf.data()), static_cast<std::streamsize>(elf.size()));
        return on_terminal({"run", "--kernel", kernel, "--mem", "2M", "--name", "t", "--console", "stdio"});
    }
    static void expect_as_before(const TerminalCommand& command) {
        const termios now = command.settings();
        EXPECT_FALSE(is_raw(now));
        EXPECT_EQ(now.c_lflag, command.settings_before().c_lflag);
        EXPECT_EQ(now.c_iflag, command.settings_before().c_iflag);
        EXPECT_EQ(now.c_oflag, command.settings_before().c_oflag);
        EXPECT_EQ(now.c_cflag, command.settings_before().c_cflag);
    }
};

TEST_F(CliTerminal, TheVirtioConsoleHasKeysScreenAndSize) {
    TerminalCommand command = console_guest();
    ASSERT_FALSE(is_raw(command.settings_before()));
    ASSERT_TRUE(command.wait_for("[001e0064]")) << command.screen();
    EXPECT_TRUE(is_raw(command.settings()));
    command.type("hello|");
    ASSERT_TRUE(command.wait_for("hello|")) << command.screen();
    // Ctrl-C and Ctrl-Z are ordinary keys, and Ctrl-A twice is one Ctrl-A.
    command.type("\x03\x1a\x01\x01|");
    ASSERT_TRUE(command.wait_for("\x03\x1a\x01|")) << command.screen();
    EXPECT_EQ(command.screen(), "") << "the guest's echo is the only one";
    command.resize(132, 43);
    ASSERT_TRUE(command.wait_for("[002b0084]")) << command.screen();
    command.type("\x01x");
    EXPECT_EQ(command.exit_code(), 0);
    expect_as_before(command);
    EXPECT_TRUE(machines().empty());
}

TEST_F(CliTerminal, DetachedItGoesOnAndIsAttachedAgain) {
    {
        TerminalCommand command = console_guest();
        ASSERT_TRUE(command.wait_for("[001e0064]")) << command.screen();
        command.type("\x01");
        command.type("d");
        EXPECT_TRUE(command.wait_for("snapvm console t attaches again")) << command.screen();
        EXPECT_EQ(command.exit_code(), 0);
        expect_as_before(command);
    }
    EXPECT_EQ(machines(), std::vector<std::string>{"t"});
    TerminalCommand again = on_terminal({"console", "t"});
    for (const auto until = soon(); !is_raw(again.settings());) {
        ASSERT_LT(SteadyClock::now(), until) << again.screen();
        std::this_thread::sleep_for(1ms);
    }
    again.type("back|");
    EXPECT_TRUE(again.wait_for("back|")) << again.screen();
    again.type("\x01x");
    EXPECT_EQ(again.exit_code(), 0);
    expect_as_before(again);
    EXPECT_TRUE(machines().empty());
}

TEST_F(CliTerminal, TheSerialPortHasThemToo) {
    TerminalCommand command =
        on_terminal({"run", "--kernel", "builtin:ledger", "--mem", "64M", "--cmdline", "ws=1M", "--name", "t"});
    ASSERT_TRUE(command.wait_for("LEDGER READY\r\n")) << command.screen();
    EXPECT_TRUE(is_raw(command.settings()));
    command.type("q");
    EXPECT_TRUE(command.wait_for("LEDGER OK")) << command.screen();
    EXPECT_EQ(command.exit_code(), 0);
    expect_as_before(command);
}

// A signal that ends the command restores the terminal too.
TEST_F(CliTerminal, AKilledConsoleLeavesTheTerminalAsItWas) {
    TerminalCommand command = console_guest();
    ASSERT_TRUE(command.wait_for("[001e0064]")) << command.screen();
    ASSERT_TRUE(is_raw(command.settings()));
    command.signal(SIGTERM);
    EXPECT_EQ(command.exit_code(), 128 + SIGTERM);
    expect_as_before(command);
    EXPECT_EQ(machines(), std::vector<std::string>{"t"}) << "the machine is another process";
}

}  // namespace
}  // namespace snapvm::test
