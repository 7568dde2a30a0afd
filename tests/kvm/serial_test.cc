// SPDX-License-Identifier: Apache-2.0
// Trap: serial byte or interrupt in flight at pause. A guest that echoes by interrupt; what goes in must come out, once, in order,
// however often the machine is stopped, saved and brought back in between.
#include <algorithm>
#include <array>
#include <thread>

#include "devices/serial/serial.h"
#include "tests/kvm/rig.h"

// LAPIC on, IOAPIC pin 4 to vector 0x40 (edge or level), serial receive interrupt on; then spins.
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

// All that is there: out again when the transmitter is free.
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
// One byte an interrupt at most: the next only comes when the still high level fires again after the EOI. (One may come too many: some
// hosts' LAPICs acknowledge when they deliver.)
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
    // Output until there are `count` bytes in all or patience ends.
    static std::string output(Machine& machine, std::size_t count) {
        std::string all;
        for (std::uint64_t next = 0; all.size() < count;) {
            const Console::Chunk chunk = machine.console().read(next, soon());
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

// Stopped right behind the input, so that bytes are in the FIFO and the interrupt is in the LAPIC, or neither yet.
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
        seen += machine->console().read(0, SteadyClock::now()).bytes;
        machine = restore(area(std::to_string(i % 2)));
        need(machine->resume());
    }
    seen += output(*machine, sent.size() - seen.size());
    EXPECT_EQ(seen, sent);
}

// The reader of the output is a whole ring behind: the guest's byte waits in the transmitter, over pause, snapshot and restore.
TEST_F(SerialTrap, BlockedOutputSurvivesPauseAndRestore) {
    const std::unique_ptr<Machine> machine = boot(kEchoGuest);
    Console& console = machine->console();
    console.hold_for_reader([&machine = *machine] { machine.output_ready(); });
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

    // Room again while frozen: nothing may change until the thaw (the interrupt would miss the LAPIC's saved state).
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
    EXPECT_EQ(restored->console().end(), 0U) << "a machine that never ran has written";
    need(restored->resume());
    EXPECT_EQ(output(*restored, 3), "xyz");
}

TEST_F(SerialTrap, InputWaitsWhileFrozenAndEndsWhenToldTo) {
    const std::unique_ptr<Machine> machine = boot(kEchoGuest);
    need(machine->freeze());
    const std::array<std::uint8_t, 2> two = {'a', 'b'};
    EXPECT_EQ(machine->send_input(two, SteadyClock::now() + 5ms), 0U);
    std::thread typist([&] { EXPECT_EQ(machine->send_input(two), 2U); });
    machine->thaw();
    typist.join();
    EXPECT_EQ(output(*machine, 2), "ab");
    need(machine->freeze());
    std::thread stopped([&] { EXPECT_EQ(machine->send_input(two), 0U); });
    machine->stop_input();
    stopped.join();
    machine->thaw();
}

// The IOAPIC's level-triggered pins through the split irqchip: EOIs come back to us, and a line still high fires again.
TEST_F(SerialTrap, LevelTriggeredPinFiresUntilTheLineIsLow) {
    const std::unique_ptr<Machine> machine = boot({.code = echo_level, .user = true, .vector = 0x40, .handler = &echo_one});
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
        seen += machine->console().read(0, SteadyClock::now()).bytes;
        machine = restore(area(std::to_string(i % 2)));
        need(machine->resume());
    }
    seen += output(*machine, sent.size() - seen.size());
    EXPECT_EQ(seen, sent);
}

}  // namespace
}  // namespace snapvm::test
