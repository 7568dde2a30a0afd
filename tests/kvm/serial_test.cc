// SPDX-License-Identifier: Apache-2.0
// Trap: a serial byte or interrupt is in flight at a pause. The guest echoes by interrupt. Each
// byte must come out once and in order, however often the machine is stopped, saved and restored
// meanwhile.
#include <algorithm>
#include <array>
#include <thread>

#include "devices/platform/serial/serial.h"
#include "tests/kvm/rig.h"

// Enables the LAPIC, routes IOAPIC pin 4 to vector 0x40 (edge or level), enables the serial receive
// interrupt, and spins.
#define SNAPVM_ECHO_SET_UP(route) \
    "mov $0xfee00000, %edi\n"     \
    "movl $0x1ff, 0xf0(%rdi)\n"   \
    "mov $0xfec00000, %edi\n"     \
    "movl $0x19, (%rdi)\n"        \
    "movl $0, 0x10(%rdi)\n"       \
    "movl $0x18, (%rdi)\n"        \
    "movl $" route                \
    ", 0x10(%rdi)\n"              \
    "mov $0x3fc, %edx\n"          \
    "mov $0x0b, %al\n"            \
    "out %al, %dx\n"              \
    "mov $0x3f9, %edx\n"          \
    "mov $1, %al\n"               \
    "out %al, %dx\n"              \
    "mov $0x5f0, %edx\n"          \
    "out %eax, %dx\n"             \
    "1: incq (%rbx)\n"            \
    "pause\n"                     \
    "jmp 1b\n"

SNAPVM_TINY_CODE(echo_edge, SNAPVM_ECHO_SET_UP("0x40"));
SNAPVM_TINY_CODE(echo_level, SNAPVM_ECHO_SET_UP("0x8040"));

// Echoes all bytes that are there, each when the transmitter is free.
SNAPVM_TINY_CODE(echo_all, R"(
    push %rax
    push %rdx
    push %rcx
    incq 8(%rbx)
1:  mov $0x3fd, %edx
    in %dx, %al
    test $1, %al
    jz 3f
    mov $0x3f8, %edx
    in %dx, %al
    mov %al, %cl
    mov $0x3fd, %edx
2:  in %dx, %al
    test $0x20, %al
    jz 2b
    mov $0x3f8, %edx
    mov %cl, %al
    out %al, %dx
    jmp 1b
3:  mov $0xfee000b0, %eax
    movl $0, (%rax)
    pop %rcx
    pop %rdx
    pop %rax
    iretq
)");
// Echoes at most one byte for each interrupt. The next interrupt comes only if the level, which is
// still high, fires again after the EOI. (One interrupt too many may come, because some hosts'
// LAPICs acknowledge at delivery.)
SNAPVM_TINY_CODE(echo_one, R"(
    push %rax
    push %rdx
    incq 8(%rbx)
    mov $0x3fd, %edx
    in %dx, %al
    test $1, %al
    jz 1f
    mov $0x3f8, %edx
    in %dx, %al
    out %al, %dx
1:  mov $0xfee000b0, %eax
    movl $0, (%rax)
    pop %rdx
    pop %rax
    iretq
)");

namespace snapvm::test {
namespace {

const TinyGuest kEchoGuest{.code = echo_edge, .user = true, .vector = 0x40, .handler = &echo_all};

class SerialTrap : public KvmTest {
protected:
    static std::unique_ptr<Machine> boot(const TinyGuest& guest) { return booted_tiny_machine(system(), guest); }
    // Returns the output once there are `count` bytes, or when kPatience ends.
    static std::string output(Machine& machine, std::size_t count) {
        std::string all;
        for (std::uint64_t next = 0; all.size() < count;) {
            const Console::Chunk chunk = machine.serial().output().read(next, soon());
            if (chunk.bytes.empty()) {
                break;
            }
            all += chunk.bytes;
            next = chunk.next;
        }
        return all;
    }
    std::string bytes(std::size_t count) {
        std::string text;
        for (std::size_t i = 0; i < count; ++i) {
            text += static_cast<char>('!' + random(90));
        }
        return text;
    }
};

TEST_F(SerialTrap, BytesSentAroundFreezesArriveOnce) {
    const std::unique_ptr<Machine> machine = boot(kEchoGuest);
    const std::string text = bytes(3000);
    std::thread typist([&] { send(*machine, text); });
    for (int i = 0; i < 150; ++i) {
        run_a_while(500us);
        need(machine->freeze());
        const SavedMachine once = need(machine->save());
        const SavedMachine again = need(machine->save());
        for (std::size_t record = 0; record < once.records.size(); ++record) {
            if (static_cast<std::uint16_t>(once.records[record].kind) >= 32) {
                EXPECT_EQ(once.records[record], again.records[record]) << "a device changes while frozen";
            }
        }
        machine->thaw();
    }
    typist.join();
    EXPECT_EQ(output(*machine, text.size()), text);
}

// The machine is stopped right after the input, so that bytes are in the FIFO and the interrupt is
// in the LAPIC, or neither is there yet.
TEST_F(SerialTrap, BytesAndInterruptInFlightComeBackWithTheSnapshot) {
    std::unique_ptr<Machine> machine = boot(kEchoGuest);
    std::string sent;
    std::string seen;
    WriteOptions stop;
    stop.keep_frozen = true;
    for (int i = 0; i < 60; ++i) {
        const std::string chunk = bytes(1 + random(16));
        send(*machine, chunk);
        sent += chunk;
        run_a_while(100us);
        snapshot(*machine, area(std::to_string(i % 2)), stop);
        seen += machine->serial().output().read(0, SteadyClock::now()).bytes;
        machine = restore(area(std::to_string(i % 2)));
        need(machine->resume());
    }
    seen += output(*machine, sent.size() - seen.size());
    EXPECT_EQ(seen, sent);
}

// The reader of the output is a whole ring behind. The guest's byte waits in the transmitter over
// pause, snapshot and restore.
TEST_F(SerialTrap, BlockedOutputSurvivesPauseAndRestore) {
    const std::unique_ptr<Machine> machine = boot(kEchoGuest);
    Console& console = machine->serial().output();
    console.hold_for_reader([&machine = *machine] { machine.serial().output_ready(); });
    console.consumed(console.end() - Console::kCapacity);
    send(*machine, "xyz");
    const auto waits = [&] {
        need(machine->freeze());
        const SavedMachine saved = need(machine->save());
        machine->thaw();
        const auto serial = std::ranges::find(saved.records, RecordKind::serial, &StateRecord::kind);
        return need(SerialStateV1::decode(serial->bytes)).transmit.has_value();
    };
    for (const auto deadline = soon(); !waits() && SteadyClock::now() < deadline;) {
        std::this_thread::sleep_for(1ms);
    }
    snapshot(*machine, area());
    EXPECT_EQ(console.end(), 0U);

    // The ring gets room while the machine is frozen. Nothing may change until the thaw: the
    // LAPIC's saved state would lack the interrupt.
    need(machine->freeze());
    const SavedMachine before = need(machine->save());
    console.consumed(0);
    const SavedMachine after = need(machine->save());
    EXPECT_EQ(console.end(), 0U);
    const auto serial = [](const SavedMachine& saved) {
        return *std::ranges::find(saved.records, RecordKind::serial, &StateRecord::kind);
    };
    EXPECT_EQ(serial(before), serial(after));
    machine->thaw();
    EXPECT_EQ(output(*machine, 3), "xyz");

    const std::unique_ptr<Machine> restored = restore(area());
    EXPECT_EQ(restored->serial().output().end(), 0U) << "a machine that never ran has written";
    need(restored->resume());
    EXPECT_EQ(output(*restored, 3), "xyz");
}

TEST_F(SerialTrap, InputWaitsWhileFrozenAndEndsWhenToldTo) {
    const std::unique_ptr<Machine> machine = boot(kEchoGuest);
    need(machine->freeze());
    const std::array<std::uint8_t, 2> two = {'a', 'b'};
    EXPECT_EQ(machine->serial().send(two, SteadyClock::now() + 5ms), 0U);
    std::thread typist([&] { EXPECT_EQ(machine->serial().send(two), 2U); });
    machine->thaw();
    typist.join();
    EXPECT_EQ(output(*machine, 2), "ab");
    need(machine->freeze());
    std::thread stopped([&] { EXPECT_EQ(machine->serial().send(two), 0U); });
    machine->stop_input();
    stopped.join();
    machine->thaw();
}

// Level-triggered IOAPIC pins work through the split irqchip: KVM reports EOIs to the VMM, and a
// line that is still high fires again.
TEST_F(SerialTrap, LevelTriggeredPinFiresUntilTheLineIsLow) {
    const std::unique_ptr<Machine> machine =
        boot({.code = echo_level, .user = true, .vector = 0x40, .handler = &echo_one});
    const std::string text = bytes(200);
    send(*machine, text);
    EXPECT_EQ(output(*machine, text.size()), text);
}

TEST_F(SerialTrap, LevelTriggeredPinComesBackWithTheSnapshot) {
    std::unique_ptr<Machine> machine = boot({.code = echo_level, .user = true, .vector = 0x40, .handler = &echo_one});
    std::string sent;
    std::string seen;
    WriteOptions stop;
    stop.keep_frozen = true;
    for (int i = 0; i < 40; ++i) {
        const std::string chunk = bytes(16);
        send(*machine, chunk);
        sent += chunk;
        run_a_while(400us);
        snapshot(*machine, area(std::to_string(i % 2)), stop);
        seen += machine->serial().output().read(0, SteadyClock::now()).bytes;
        machine = restore(area(std::to_string(i % 2)));
        need(machine->resume());
    }
    seen += output(*machine, sent.size() - seen.size());
    EXPECT_EQ(seen, sent);
}

}  // namespace
}  // namespace snapvm::test
