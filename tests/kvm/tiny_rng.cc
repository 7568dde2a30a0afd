// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/tiny_rng.h"

#include "tests/kvm/tiny_virtio.h"
#include "vmm/platform/platform.h"

// The available ring's entries are zeros, so each is descriptor 0.
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

std::unique_ptr<Machine> rng_machine(const kvm::System& system, const TinyGuest& guest) {
    MachineConfig config;
    config.memory_bytes = tiny::kMemory;
    config.devices.rng = true;
    std::unique_ptr<Machine> machine = tiny_machine(system, guest, config);
    DriverQueue queue(machine->memory(), Gpa{0x90000}, 8);
    queue.write_descriptor(0, kRngBuffer, 64, DriverQueue::kWrite, 0);
    tiny::write_registers(machine->memory(), platform::kVirtioBase, 0, {queue});
    return machine;
}

}  // namespace snapvm::test
