// SPDX-License-Identifier: Apache-2.0
// The ACPI devices' effects on a machine: a guest that panics ends the run, and the power button
// ends a guest that listens to it in time.
#include <fstream>
#include <future>

#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/rig.h"
#include "vmm/control/machine_service.h"

SNAPVM_TINY_CODE(panics, R"(
    mov $0x505, %edx
    in %dx, %al
    mov %al, (%rbx)
    mov $1, %al
    out %al, %dx
1:  jmp 1b
)");
// Reports like a guest whose crash kernel takes over, dumps and powers off.
SNAPVM_TINY_CODE(dumps, R"(
    mov $0x505, %edx
    mov $2, %al
    out %al, %dx
    mov $0x5f0, %edx
    out %eax, %dx
1:  jmp 1b
)");

// Enables the LAPIC, routes the event device's pin 6 to vector 0x41 (level), then sends READY.
#define SNAPVM_LISTENS           \
    "mov $0xfee00000, %edi\n"    \
    "movl $0x1ff, 0xf0(%rdi)\n"  \
    "mov $0xfec00000, %edi\n"    \
    "movl $0x1d, (%rdi)\n"       \
    "movl $0, 0x10(%rdi)\n"      \
    "movl $0x1c, (%rdi)\n"       \
    "movl $0x8041, 0x10(%rdi)\n" \
    "mov $0x603, %edx\n"         \
    "mov $1, %al\n"              \
    "out %al, %dx\n"             \
    "mov $0x5f0, %edx\n"         \
    "out %eax, %dx\n"            \
    "1: incq (%rbx)\n"           \
    "pause\n"                    \
    "jmp 1b\n"
SNAPVM_TINY_CODE(listens, SNAPVM_LISTENS);
// Sends MARK first and waits until the test writes its data page.
SNAPVM_TINY_CODE(listens_later, R"(
    mov $0x5f8, %edx
    out %eax, %dx
2:  cmpq $0, 8(%rbx)
    je 2b
)" SNAPVM_LISTENS);
// Acknowledges the press, and powers off by ACPI's sleep control register.
SNAPVM_TINY_CODE(powers_off, R"(
    mov $0x602, %edx
    in %dx, %al
    mov %al, 16(%rbx)
    out %al, %dx
    mov $0x600, %edx
    mov $0x34, %al
    out %al, %dx
1:  jmp 1b
)");
// Counts the presses that it finds, acknowledges them, and goes on. It does not count interrupts:
// on hosts that emulate kernel mode the EOI of a level-triggered interrupt is reported at the first
// exit after its delivery, so the interrupt comes again if its pin is still high.
SNAPVM_TINY_CODE(ignores, R"(
    push %rax
    push %rdx
    mov $0x602, %edx
    in %dx, %al
    movzbl %al, %eax
    add %rax, 16(%rbx)
    mov $1, %al
    out %al, %dx
    mov $0xfee000b0, %eax
    movl $0, (%rax)
    pop %rdx
    pop %rax
    iretq
)");
// Polls for the press without interrupts, for machines that are made by the command line.
SNAPVM_TINY_CODE(polls, R"(
    mov $0x603, %edx
    mov $1, %al
    out %al, %dx
    mov $0x5f0, %edx
    out %eax, %dx
    mov $0x602, %edx
1:  in %dx, %al
    test $1, %al
    jz 1b
    out %al, %dx
    mov $0x600, %edx
    mov $0x34, %al
    out %al, %dx
2:  jmp 2b
)");

namespace snapvm::test {
namespace {

const TinyGuest kListens{.code = listens, .user = true, .vector = 0x41, .handler = &powers_off};

class AcpiEvents : public KvmTest {
protected:
    static std::unique_ptr<Machine> boot(const TinyGuest& guest) { return booted_tiny_machine(system(), guest); }
    static std::uint64_t data(Machine& machine, std::uint64_t offset) {
        return need(machine.memory().load<std::uint64_t>(tiny::kData + offset));
    }
    static Outcome stop(Machine& machine, std::chrono::milliseconds timeout, bool force = false) {
        MachineService service(machine, "acpi");
        return need(service.stop({.force = force, .timeout = timeout}));
    }
};

TEST_F(AcpiEvents, APanicEndsTheRunWithThree) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = panics});
    need(machine->resume());
    const Outcome outcome = wait_end(*machine);
    EXPECT_EQ(outcome.kind, Outcome::Kind::guest_panic) << outcome.name();
    EXPECT_EQ(outcome.exit_code(), 3);
    EXPECT_EQ(data(*machine, 0), 3U) << "the events it knows";
}

TEST_F(AcpiEvents, ACrashKernelRunsOnAndIsShown) {
    const std::unique_ptr<Machine> machine = boot({.code = dumps});
    EXPECT_TRUE(machine->stats().crash_loaded);
    EXPECT_EQ(machine->state(), Machine::State::running);
    snapshot(*machine, area());
    EXPECT_TRUE(restore(area())->stats().crash_loaded);
}

TEST_F(AcpiEvents, PowerButtonInterruptsAGuestThatListens) {
    const std::unique_ptr<Machine> machine = boot(kListens);
    EXPECT_EQ(data(*machine, 16), 0U);
    EXPECT_TRUE(machine->press_power_button(soon()));
    EXPECT_EQ(wait_end(*machine).kind, Outcome::Kind::power_off);
    EXPECT_EQ(data(*machine, 16), 1U) << "the button";
}

TEST_F(AcpiEvents, PressedBeforeTheGuestListensItIsNotLost) {
    const std::unique_ptr<Machine> machine =
        tiny_machine(system(), {.code = listens_later, .user = true, .vector = 0x41, .handler = &powers_off});
    EXPECT_FALSE(machine->press_power_button(soon()));
    need(machine->memory().store(tiny::kData + 8, std::uint64_t{1}));
    need(machine->resume());
    EXPECT_EQ(wait_end(*machine).kind, Outcome::Kind::power_off);
}

// The button is pressed and the machine saved before the guest can react.
TEST_F(AcpiEvents, APressInFlightComesBackWithTheSnapshot) {
    const std::unique_ptr<Machine> machine = boot(kListens);
    need(machine->pause());
    EXPECT_TRUE(machine->press_power_button(soon()));
    snapshot(*machine, area());
    const std::unique_ptr<Machine> restored = restore(area());
    need(restored->resume());
    EXPECT_EQ(wait_end(*restored).kind, Outcome::Kind::power_off);
}

TEST_F(AcpiEvents, WaitsOutAFreeze) {
    const std::unique_ptr<Machine> machine = boot(kListens);
    need(machine->freeze());
    EXPECT_FALSE(machine->press_power_button(SteadyClock::now() + 2ms)) << "nothing may change";
    auto pressed = std::async(std::launch::async, [&] { return machine->press_power_button(soon()); });
    machine->thaw();
    EXPECT_TRUE(pressed.get());
    EXPECT_EQ(wait_end(*machine).kind, Outcome::Kind::power_off);
}

TEST_F(AcpiEvents, StopIsAPowerOffWhereTheGuestTakesIt) {
    EXPECT_EQ(stop(*boot(kListens), kPatience).kind, Outcome::Kind::power_off);
    EXPECT_EQ(stop(*boot(kListens), kPatience, true).kind, Outcome::Kind::stopped) << "forced";
}

TEST_F(AcpiEvents, StopEndsAGuestThatDoesNotGoInTime) {
    const std::unique_ptr<Machine> machine = boot({.code = listens, .user = true, .vector = 0x41, .handler = &ignores});
    const auto begin = SteadyClock::now();
    EXPECT_EQ(stop(*machine, 300ms).kind, Outcome::Kind::stopped);
    EXPECT_GE(SteadyClock::now() - begin, 300ms);
    EXPECT_EQ(data(*machine, 16), 1U) << "it was told, once";
}

// The limit of an hour is longer than the test's own.
TEST_F(AcpiEvents, StopWaitsForNobodyWhoCannotHear) {
    EXPECT_EQ(stop(*boot({.code = dumps}), 1h).kind, Outcome::Kind::stopped) << "does not listen";
    const std::unique_ptr<Machine> paused = boot(kListens);
    need(paused->pause());
    EXPECT_EQ(stop(*paused, 1h).kind, Outcome::Kind::stopped) << "paused";
}

class AcpiCli : public Cli {
protected:
    /// Writes a kernel with this code and returns its path.
    std::string kernel(const TinyCode& code) {
        const std::vector<std::byte> elf = tiny_elf({.code = code, .user = false});
        std::ofstream(scratch_.file("kernel"), std::ios::binary)
            .write(reinterpret_cast<const char*>(elf.data()), static_cast<std::streamsize>(elf.size()));
        return scratch_.file("kernel");
    }
};

TEST_F(AcpiCli, RunOfAGuestThatPanicsExitsWithThree) {
    const CommandResult result =
        command({"run", "--kernel", kernel(panics), "--mem", "2M", "--name", "p", "--timeout", "30s"});
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_EQ(result.err, "snapvm: p: the guest's kernel has panicked\n");
    EXPECT_EQ(result.out, "");
}

TEST_F(AcpiCli, StopPressesThePowerButton) {
    ASSERT_EQ(command({"run", "--kernel", kernel(polls), "--mem", "2M", "--name", "p", "-d"}).exit_code, 0);
    ASSERT_EQ(command({"wait", "p", "--for", "ready"}).exit_code, 0);
    EXPECT_EQ(json_of({"stop", "p", "--timeout", "50s"})["outcome"], "power-off");
    EXPECT_TRUE(machines().empty());
}

}  // namespace
}  // namespace snapvm::test
