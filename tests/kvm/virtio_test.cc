// SPDX-License-Identifier: Apache-2.0
// A virtio device in a machine. A guest of a few instructions drives it, and is snapshotted and
// restored while requests are in flight.
#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/kvm/harness.h"
#include "tests/kvm/tiny_rng.h"
#include "tests/kvm/tiny_virtio.h"
#include "vmm/platform/platform.h"
#include "vmm/vcpu/vcpu_state.h"

// Sets the device up as drive_rng does, and routes its pin 8 to vector 0x42 (edge). The code makes
// one request; each further one is made by the handler of the last, so that a lost interrupt stops
// all. Counter 2 counts interrupts.
SNAPVM_TINY_CODE(interrupted_by_rng, R"(
    mov $0xfee00000, %edi
    movl $0x1ff, 0xf0(%rdi)
    mov $0xfec00000, %edi
    movl $0x21, (%rdi)
    movl $0, 0x10(%rdi)
    movl $0x20, (%rdi)
    movl $0x42, 0x10(%rdi)
)" SNAPVM_TINY_SET_UP_VIRTIO R"(
    movw $1, 0x91002
    mov $0xd0000050, %edi
    movl $0, (%rdi)
3:  pause
    jmp 3b
)");
// Acknowledges, makes the next request, and waits for the gate (counter 1) before the end of
// interrupt.
SNAPVM_TINY_CODE(rng_handler, R"(
    push %rax
    push %rdi
    incq 16(%rbx)
    mov $0xd0000000, %edi
    mov 0x60(%rdi), %eax
    mov %eax, 0x64(%rdi)
    mov 16(%rbx), %eax
    inc %eax
    mov %ax, 0x91002
    movl $0, 0x50(%rdi)
1:  cmpq $0, 8(%rbx)
    je 1b
    mov $0xfee000b0, %eax
    movl $0, (%rax)
    pop %rdi
    pop %rax
    iretq
)");

namespace snapvm::test {
namespace {

class VirtioMachine : public KvmTest {
protected:
    static std::uint64_t answered(Machine& machine) { return need(machine.memory().load<std::uint64_t>(tiny::kData)); }
    static void wait_for_more(Machine& machine, std::uint64_t than) {
        for (const auto until = soon(); answered(machine) <= than + 20;) {
            ASSERT_LT(SteadyClock::now(), until) << "its requests are answered no more";
            std::this_thread::sleep_for(100us);
        }
    }
};

TEST_F(VirtioMachine, ANotificationDoesNotLeaveTheGuest) {
    if (system().capabilities().ioeventfd == 0) {
        GTEST_SKIP() << "this KVM has no ioeventfd";
    }
    const auto machine = rng_machine(system());
    need(machine->resume());
    wait_for_more(*machine, 0);
    need(machine->pause());
    const std::uint64_t exits = machine->stats().exits;
    const std::uint64_t requests = answered(*machine);
    need(machine->resume());
    wait_for_more(*machine, requests + 200);
    need(machine->pause());
    EXPECT_LT(machine->stats().exits - exits, (answered(*machine) - requests) / 4);
}

// At each of these moments a request may be in flight: not yet noticed by the device, or answered
// and not yet seen by the guest.
TEST_F(VirtioMachine, RequestsGoOnOverSnapshotsAndRestores) {
    std::unique_ptr<Machine> machine = rng_machine(system());
    need(machine->resume());
    wait_for_more(*machine, 0);
    for (int moment = 0; moment < 20; ++moment) {
        SCOPED_TRACE(moment);
        run_a_while(3ms);
        WriteOptions options;
        options.mode = moment % 3 == 0 ? SnapshotMode::stop : SnapshotMode::live;
        const AreaPath path = area(moment % 2 == 0 ? "even" : "odd");
        snapshot(*machine, path, options);
        const std::uint64_t before = answered(*machine);
        ASSERT_NO_FATAL_FAILURE(wait_for_more(*machine, before)) << "the machine itself";
        machine = restore(path);
        const std::uint64_t then = answered(*machine);
        need(machine->resume());
        ASSERT_NO_FATAL_FAILURE(wait_for_more(*machine, then)) << "the restored one";
    }
}

// The machine is saved between the edge that the device raised and the guest's end of interrupt.
// The interrupt is in the LAPIC only.
TEST_F(VirtioMachine, AnInterruptInFlightIsServedByTheRestoredGuest) {
    constexpr std::uint8_t kVector = 0x42;
    const auto interrupts = [](Machine& machine) {
        return need(machine.memory().load<std::uint64_t>(tiny::kData + 16));
    };
    const auto requested = [](const AreaPath& path) {
        const std::vector<StateRecord> records = need(open_snapshot(path)).saved.records;
        const auto vcpu = std::ranges::find(records, RecordKind::vcpu, &StateRecord::kind);
        const VcpuStateV1 state = need(VcpuStateV1::decode(vcpu->bytes));
        // IRR has 32 vectors in a register; registers are 16 bytes apart.
        return (std::to_integer<unsigned>(
                    std::as_bytes(std::span(state.lapic.regs))[0x200 + kVector / 32 * 16 + kVector % 32 / 8]) >>
                    kVector % 8 &
                1) != 0;
    };
    const std::unique_ptr<Machine> machine =
        rng_machine(system(), {.code = interrupted_by_rng, .user = true, .vector = kVector, .handler = &rng_handler});
    need(machine->resume());
    // The first handler waits at the gate, and its request has been answered. The device may write
    // this word while the test reads it.
    const auto used = need(machine->memory().span(Gpa{0x92002}, sizeof(std::uint16_t)));
    const std::atomic_ref<std::uint16_t> used_index(*reinterpret_cast<std::uint16_t*>(used.data()));
    for (const auto until = soon(); used_index.load() != 2;) {
        ASSERT_LT(SteadyClock::now(), until);
        std::this_thread::sleep_for(100us);
    }
    for (const SnapshotMode mode : {SnapshotMode::stop, SnapshotMode::live}) {
        WriteOptions options;
        options.mode = mode;
        const AreaPath path = area(mode == SnapshotMode::stop ? "stop" : "live");
        snapshot(*machine, path, options);
        EXPECT_TRUE(requested(path));
        EXPECT_EQ(interrupts(*machine), 1U);
        const auto restored = restore(path);
        EXPECT_EQ(interrupts(*restored), 1U);
        need(restored->memory().store(tiny::kData + 8, std::uint64_t{1}));
        need(restored->resume());
        for (const auto until = soon(); interrupts(*restored) < 20;) {
            ASSERT_LT(SteadyClock::now(), until) << "the interrupt is lost, after " << interrupts(*restored);
            std::this_thread::sleep_for(100us);
        }
    }
}

// While the machine is paused, no request is answered and memory does not change.
TEST_F(VirtioMachine, APausedMachineAnswersNothing) {
    const auto machine = rng_machine(system());
    need(machine->resume());
    wait_for_more(*machine, 0);
    for (int i = 0; i < 20; ++i) {
        run_a_while(1ms);
        need(machine->pause());
        const auto memory = machine->memory().blocks()[0].bytes();
        const std::vector<std::byte> copy(memory.begin(), memory.end());
        std::this_thread::sleep_for(2ms);
        ASSERT_EQ(std::memcmp(copy.data(), memory.data(), copy.size()), 0);
        const std::uint64_t before = answered(*machine);
        need(machine->resume());
        ASSERT_NO_FATAL_FAILURE(wait_for_more(*machine, before));
    }
}

}  // namespace
}  // namespace snapvm::test
