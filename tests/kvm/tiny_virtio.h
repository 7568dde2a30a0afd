// SPDX-License-Identifier: Apache-2.0
// A tiny guest's driver of a virtio device. It sets the device up from a table that the test has
// written.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "tests/kvm/harness.h"
#include "tests/kvm/tiny_guest.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::test::tiny {

inline constexpr Gpa kRegisters{0x71000};  ///< pairs of a register's address and a value, up to an address of 0

/// Assembly that writes all values of the table. It changes RSI, RDI and RAX.
#define SNAPVM_TINY_SET_UP_VIRTIO \
    "mov $0x71000, %esi\n"        \
    "1: mov (%rsi), %rdi\n"       \
    "test %rdi, %rdi\n"           \
    "jz 2f\n"                     \
    "mov 8(%rsi), %eax\n"         \
    "mov %eax, (%rdi)\n"          \
    "add $16, %rsi\n"             \
    "jmp 1b\n"                    \
    "2:\n"

/// Writes the table for the device at `base`: VERSION_1, more features, and the device's queues in
/// their order.
inline void write_registers(GuestMemory& memory, Gpa base, std::uint32_t features,
                            std::initializer_list<DriverQueue> queues) {
    Gpa at = kRegisters;
    const auto put = [&](std::uint64_t offset, std::uint64_t value) {
        need(memory.store(at, std::array<std::uint64_t, 2>{base.value + offset, value}));
        at = at + 16;
    };
    put(0x70, 0);
    put(0x70, 1);
    put(0x70, 3);
    put(0x24, 0);
    put(0x20, features);
    put(0x24, 1);
    put(0x20, 1);
    put(0x70, 11);
    std::uint32_t number = 0;
    for (const DriverQueue& queue : queues) {
        put(0x30, number++);
        put(0x38, queue.size());
        put(0x80, queue.descriptors().value);
        put(0x84, 0);
        put(0x90, queue.available().value);
        put(0x94, 0);
        put(0xA0, queue.used().value);
        put(0xA4, 0);
        put(0x44, 1);
    }
    put(0x70, 15);
}

}  // namespace snapvm::test::tiny
