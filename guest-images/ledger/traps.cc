// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/traps.h"

#include "guest-images/ledger/cpu.h"
#include "guest-images/ledger/power.h"
#include "guest-images/ledger/serial.h"

namespace snapvm::guest {
namespace {

struct Gate {
    u16 offset_low;
    u16 selector;
    u16 attributes;
    u16 offset_middle;
    u64 offset_high;
};

// The frame that trap_common in traps.S pushes.
struct TrapFrame {
    u64 cr2, rax, vector, error, rip, cs, rflags, rsp, ss;
};

constexpr u32 kExceptions = 22;
constexpr int kExitTrap = 99;

}  // namespace

extern "C" {
alignas(16) Gate idt[256];
extern const u64 exception_entries[kExceptions];
extern const u64 device_entries[VIRTIO_DEVICES];
void tick_entry();
void serial_entry();
void wake_entry();
void spurious_entry();
[[noreturn]] void report_trap(const TrapFrame* frame);
}

void fill_interrupt_table() {
    const auto set = [](u32 vector, u64 entry) {
        idt[vector] = {static_cast<u16>(entry), SEL_KERNEL_CODE, 0x8e00, static_cast<u16>(entry >> 16), entry >> 32};
    };
    for (u32 v = 0; v < kExceptions; ++v) set(v, exception_entries[v]);
    set(VECTOR_TICK, reinterpret_cast<u64>(&tick_entry));
    set(VECTOR_SERIAL, reinterpret_cast<u64>(&serial_entry));
    set(VECTOR_WAKE, reinterpret_cast<u64>(&wake_entry));
    for (u32 i = 0; i < VIRTIO_DEVICES; ++i) set(VECTOR_DEVICE + i, device_entries[i]);
    set(VECTOR_SPURIOUS, reinterpret_cast<u64>(&spurious_entry));
}

[[noreturn]] void report_trap(const TrapFrame* frame) {
    const TrapFrame f = *frame;
    Line line;
    line.text("LEDGER TRAP vector=")
        .number(f.vector)
        .text(" error=")
        .hex(f.error)
        .text(" rip=")
        .hex(f.rip)
        .text(" cr2=");
    line.hex(f.cr2).text(" cpl=").number(f.cs & 3).text(" rax=").hex(f.rax).text(" cpu=").number(self().index);
    line.print();
    exit_guest(kExitTrap);
}

}  // namespace snapvm::guest
