// SPDX-License-Identifier: Apache-2.0
// How runs end, and what a guest reports meanwhile: outcomes, exit codes, READY and MARK.
#include "tests/kvm/rig.h"

SNAPVM_TINY_CODE(reset_control, R"(
    mov $0xcf9, %edx
    mov $0x02, %al
    out %al, %dx
    mov $0x06, %al
    out %al, %dx
1:  jmp 1b
)");
SNAPVM_TINY_CODE(exit_300, R"(
    mov $0x5f4, %edx
    mov $300, %eax
    out %eax, %dx
1:  jmp 1b
)");
SNAPVM_TINY_CODE(marks, R"(
    mov $0x5f8, %edx
    mov $41, %eax
    out %eax, %dx
    inc %eax
    out %eax, %dx
    mov $0x5f0, %edx
    mov $0x1234, %eax
    out %eax, %dx
    in %dx, %eax
    mov %eax, (%rbx)
1:  jmp 1b
)");
// A port and an address without a device read as all ones.
SNAPVM_TINY_CODE(nobody, R"(
    mov $0x1234, %edx
    in %dx, %eax
    mov %eax, (%rbx)
    out %eax, %dx
    mov $0xd0000000, %edi
    mov (%rdi), %rax
    mov %rax, 8(%rbx)
    mov %rax, (%rdi)
    mov $0x600, %edx
    mov $0x34, %al
    out %al, %dx
1:  jmp 1b
)");

namespace snapvm::test {
namespace {

struct Ending {
    const char* command;
    Outcome::Kind kind;
    int exit_code;
};

class LedgerEndings : public KvmTest, public ::testing::WithParamInterface<Ending> {};

TEST_P(LedgerEndings, OutcomeAndExitCode) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=1M"});
    send(*machine, GetParam().command);
    const Outcome outcome = wait_end(*machine);
    EXPECT_EQ(outcome.kind, GetParam().kind) << outcome.name();
    EXPECT_EQ(outcome.exit_code(), GetParam().exit_code);
    EXPECT_FALSE(outcome.error.has_value());
}

INSTANTIATE_TEST_SUITE_P(
    Commands, LedgerEndings,
    ::testing::Values(Ending{"o", Outcome::Kind::power_off, 0}, Ending{"r", Outcome::Kind::reboot, 0},
                      Ending{"t", Outcome::Kind::triple_fault, 4}, Ending{"e", Outcome::Kind::guest_exit, 0x21},
                      Ending{"q", Outcome::Kind::guest_exit, 0}, Ending{"u", Outcome::Kind::guest_exit, 99}),
    [](const auto& test) { return test.param.command; });

class Exits : public KvmTest {
protected:
    static Outcome run(const TinyGuest& guest) {
        const std::unique_ptr<Machine> machine = tiny_machine(system(), guest);
        need(machine->resume());
        return wait_end(*machine);
    }
};

TEST_F(Exits, ResetControlRegisterReboots) { EXPECT_EQ(run({.code = reset_control}).kind, Outcome::Kind::reboot); }

TEST_F(Exits, TestPortExitKeepsEightBits) {
    const Outcome outcome = run({.code = exit_300});
    EXPECT_EQ(outcome.kind, Outcome::Kind::guest_exit);
    EXPECT_EQ(outcome.exit_code(), 300 & 0xFF);
}

TEST_F(Exits, NobodysPortsAndAddressesReadAsOnes) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = nobody});
    need(machine->resume());
    EXPECT_EQ(wait_end(*machine).kind, Outcome::Kind::power_off);
    EXPECT_EQ(need(machine->memory().load<std::uint64_t>(tiny::kData)), 0xFFFFFFFFU);
    EXPECT_EQ(need(machine->memory().load<std::uint64_t>(tiny::kData + 8)), ~0ULL);
}

TEST_F(Exits, ReadyAndMarkAreKeptByASnapshot) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = marks});
    EXPECT_FALSE(machine->wait_ready(SteadyClock::now() + 2ms));
    need(machine->resume());
    ASSERT_TRUE(machine->wait_ready(soon()));
    snapshot(*machine, area());
    const std::unique_ptr<Machine> restored = restore(area());
    EXPECT_FALSE(restored->wait_ready(SteadyClock::now() + 2ms)) << "what never ran is not ready";
    need(restored->resume());
    EXPECT_TRUE(restored->wait_ready(soon())) << "restored after READY, and not ready";
    for (const Machine* one : {machine.get(), restored.get()}) {
        const MachineStats stats = one->stats();
        EXPECT_TRUE(stats.ready);
        EXPECT_EQ(stats.ready_value, 0x1234U);
        EXPECT_EQ(stats.mark, 42U);
        EXPECT_EQ(stats.marks, 2U);
    }
}

TEST_F(Exits, EndFromOutsideIsTheFirstWordThatCounts) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = marks});
    need(machine->resume());
    machine->end({.kind = Outcome::Kind::timed_out, .code = 0, .error = {}});
    machine->end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    EXPECT_EQ(wait_end(*machine).exit_code(), 124);
}

}  // namespace
}  // namespace snapvm::test
