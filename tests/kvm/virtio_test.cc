// SPDX-License-Identifier: Apache-2.0
// A virtio device in a machine: a guest of a few instructions drives it, and is snapshotted and restored while requests are on their way.
#include <thread>

#include "tests/kvm/harness.h"
#include "tests/kvm/tiny_virtio.h"
#include "vmm/platform/platform.h"

// One request after the other: the available ring's entries are zeros, so each is descriptor 0. Counter 0: requests answered.
SNAPVM_TINY_CODE(drive_rng, SNAPVM_TINY_SET_UP_VIRTIO R"(
    xor %ecx, %ecx
    mov $0xd0000050, %edi
3:  inc %ecx
    mov %cx, 0x91002
    movl $0, (%rdi)
4:  cmp %cx, 0x92002
    je 5f
    pause
    jmp 4b
5:  incq (%rbx)
    jmp 3b
)");

namespace snapvm::test {
namespace {

constexpr Gpa kBuffer{0xA0000};

class VirtioMachine : public KvmTest {
protected:
    static std::unique_ptr<Machine> create() {
        MachineConfig config;
        config.memory_bytes = tiny::kMemory;
        config.devices.rng = true;
        const TinyGuest guest{.code = drive_rng};
        const std::vector<std::byte> elf = tiny_elf(guest);
        auto machine = need(Machine::create(
            system(), config, BootSource{.kernel = elf, .initrds = {}, .cmdline = {}, .cpus = 1, .force_linux64 = true}));
        write_tiny_tables(machine->memory(), guest);
        DriverQueue queue(machine->memory(), Gpa{0x90000}, 8);
        queue.write_descriptor(0, kBuffer, 64, DriverQueue::kWrite, 0);
        tiny::write_registers(machine->memory(), platform::kVirtioBase, 0, {queue});
        return machine;
    }
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
    const auto machine = create();
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

// A request may be on its way at each of these moments: noticed by nobody yet, or answered and not seen.
TEST_F(VirtioMachine, RequestsGoOnOverSnapshotsAndRestores) {
    std::unique_ptr<Machine> machine = create();
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

// Paused, nothing changes: no request is answered, and memory is still.
TEST_F(VirtioMachine, APausedMachineAnswersNothing) {
    const auto machine = create();
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
