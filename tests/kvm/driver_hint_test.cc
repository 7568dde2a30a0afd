// SPDX-License-Identifier: Apache-2.0
// If a guest finds none of its virtio devices, the run says so once. It says so for no other guest.
#include <algorithm>
#include <fstream>

#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/rig.h"
#include "tests/support/need.h"
#include "vmm/host/driver_hint.h"

SNAPVM_TINY_CODE(waits, "1: pause\njmp 1b\n");
// Does what a driver of the first device does (virtio 1.2, 3.1.1): VERSION_1, FEATURES_OK,
// DRIVER_OK.
#define SNAPVM_DRIVES         \
    "mov $0xd0000000, %edi\n" \
    "movl $1, 0x24(%rdi)\n"   \
    "movl $1, 0x20(%rdi)\n"   \
    "movl $11, 0x70(%rdi)\n"  \
    "movl $15, 0x70(%rdi)\n"
// Acknowledges the device, finds no interrupt for it, and gives up with FAILED.
SNAPVM_TINY_CODE(fails, R"(
    mov $0xd0000000, %edi
    movl $3, 0x70(%rdi)
    movl $0x83, 0x70(%rdi)
    mov $0x5f0, %edx
    out %eax, %dx
1:  pause
    jmp 1b
)");
SNAPVM_TINY_CODE(drives, SNAPVM_DRIVES R"(
    mov $0x5f0, %edx
    out %eax, %dx
1:  pause
    jmp 1b
)");
SNAPVM_TINY_CODE(reboots, R"(
    mov $0xfe, %al
    out %al, $0x64
1:  jmp 1b
)");
SNAPVM_TINY_CODE(drives_and_reboots, SNAPVM_DRIVES R"(
    mov $0xfe, %al
    out %al, $0x64
1:  jmp 1b
)");

namespace snapvm::test {
namespace {

using Kind = Outcome::Kind;
constexpr auto kEver = SteadyClock::time_point::max();

class DriverHints : public KvmTest {
protected:
    static std::unique_ptr<Machine> boot(const TinyCode& code, bool rng = true) {
        MachineConfig config;
        config.memory_bytes = tiny::kMemory;
        config.devices.rng = rng;
        auto machine = tiny_machine(system(), {.code = code}, config);
        need(machine->resume());
        return machine;
    }
    DriverHint<Machine> hint(const Machine& machine) {
        return {machine, [this](const std::string& line) { said_.push_back(line); }};
    }

    std::vector<std::string> said_;
};

TEST_F(DriverHints, OnceOfAGuestThatFindsNone) {
    const auto machine = boot(waits);
    DriverHint drivers = hint(*machine);
    EXPECT_FALSE(drivers.wait_ended(0ms, SteadyClock::now()).has_value());
    EXPECT_EQ(said_, std::vector{driver_hint(1)});
    EXPECT_FALSE(drivers.wait_ended(0ms, SteadyClock::now()).has_value());
    drivers.ended({.kind = Kind::reboot, .code = 0, .error = {}});
    EXPECT_EQ(said_.size(), 1U);
}

TEST_F(DriverHints, OfADriverThatFails) {
    const auto machine = boot(fails);
    ASSERT_TRUE(machine->wait_ready(soon()));
    hint(*machine).ended({.kind = Kind::reboot, .code = 0, .error = {}});
    EXPECT_EQ(said_.size(), 1U);
}

TEST_F(DriverHints, NotBeforeItsTime) {
    const auto machine = boot(waits);
    DriverHint drivers = hint(*machine);
    EXPECT_FALSE(drivers.wait_ended(1h, SteadyClock::now() + 1ms).has_value());
    machine->end({.kind = Kind::stopped, .code = 0, .error = {}});
    EXPECT_EQ(drivers.wait_ended(1h, kEver).value_or(Outcome{.kind = Kind::failed, .code = 0, .error = {}}).kind,
              Kind::stopped);
    EXPECT_TRUE(said_.empty());
}

TEST_F(DriverHints, NotOfAGuestThatHasADriverOrNoDevice) {
    const auto driven = boot(drives);
    ASSERT_TRUE(driven->wait_ready(soon()));
    EXPECT_TRUE(driven->had_driver());
    const auto bare = boot(waits, false);
    for (const auto* machine : {driven.get(), bare.get()}) {
        DriverHint drivers = hint(*machine);
        EXPECT_FALSE(drivers.wait_ended(0ms, SteadyClock::now()).has_value());
        drivers.ended({.kind = Kind::guest_panic, .code = 0, .error = {}});
    }
    EXPECT_TRUE(said_.empty());
}

TEST_F(DriverHints, OfARunThatEndsByAPanicOrItsReboot) {
    const auto machine = boot(waits);
    for (const Kind kind :
         {Kind::power_off, Kind::guest_exit, Kind::stopped, Kind::timed_out, Kind::failed, Kind::triple_fault}) {
        hint(*machine).ended({.kind = kind, .code = 0, .error = {}});
    }
    EXPECT_TRUE(said_.empty());
    hint(*machine).ended({.kind = Kind::guest_panic, .code = 0, .error = {}});
    hint(*machine).ended({.kind = Kind::reboot, .code = 0, .error = {}});
    EXPECT_EQ(said_.size(), 2U);
}

TEST_F(DriverHints, ItIsOneLineThatCanBeCopied) {
    const std::string two = driver_hint(2);
    EXPECT_EQ(two.find('\n'), std::string::npos);
    EXPECT_NE(two.find("any of its 2 virtio devices"), std::string::npos) << two;
    EXPECT_NE(
        two.find("add acpi=off virtio_mmio.device=4K@0xd0000000:8 virtio_mmio.device=4K@0xd0001000:9 to --cmdline"),
        std::string::npos)
        << two;
}

class DriverHintCli : public Cli {
protected:
    CommandResult run(const TinyCode& code) {
        const std::vector<std::byte> elf = tiny_elf({.code = code, .user = false});
        std::ofstream(scratch_.file("kernel"), std::ios::binary)
            .write(reinterpret_cast<const char*>(elf.data()), static_cast<std::streamsize>(elf.size()));
        return command(
            {"run", "--kernel", scratch_.file("kernel"), "--mem", "2M", "--name", "n", "--rng", "--timeout", "60s"});
    }
};

TEST_F(DriverHintCli, IsOnStderr) {
    const CommandResult without = run(reboots);
    EXPECT_EQ(without.exit_code, 0);
    EXPECT_EQ(without.err, "snapvm: n: " + driver_hint(1) + "\n");
    const CommandResult with = run(drives_and_reboots);
    EXPECT_EQ(with.exit_code, 0);
    EXPECT_EQ(with.err, "");
}

}  // namespace
}  // namespace snapvm::test
