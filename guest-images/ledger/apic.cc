// SPDX-License-Identifier: Apache-2.0
// Sources: Intel SDM volume 3, chapter 11 (APIC); 82093AA data sheet (IOAPIC).
#include "guest-images/ledger/apic.h"

#include "guest-images/ledger/clock.h"

namespace snapvm::guest {
namespace {

constexpr u32 kSpurious = 0xf0, kCommandLow = 0x300, kCommandHigh = 0x310, kTimer = 0x320, kDivide = 0x3e0;
constexpr u32 kInit = 0x4500, kStartup = 0x4600, kFixedAllButSelf = 0xc4000, kFixed = 0x4000;
constexpr u32 kDeadlineMode = 2 << 17, kDivideBy1 = 0xb;
constexpr u64 kLapicHz = 1000000000;
constexpr u32 kIoapicVersion = 1, kIoapicRoutes = 0x10;

void write_lapic(u32 offset, u32 value) { write_mmio(LAPIC_BASE + offset, value); }

u32 read_ioapic(u32 index) {
    write_mmio(IOAPIC_BASE, index);
    return read_mmio(IOAPIC_BASE + 0x10);
}
void write_ioapic(u32 index, u32 value) {
    write_mmio(IOAPIC_BASE, index);
    write_mmio(IOAPIC_BASE + 0x10, value);
}

bool has_deadline_timer() { return (cpuid(1).c >> 24 & 1) != 0; }

}  // namespace

void enable_lapic() { write_lapic(kSpurious, 0x100 | VECTOR_SPURIOUS); }

void start_cpu(u32 apic_id, u32 start_page) {
    write_lapic(kCommandHigh, apic_id << 24);
    write_lapic(kCommandLow, kInit);
    write_lapic(kCommandHigh, apic_id << 24);
    write_lapic(kCommandLow, kStartup | start_page);
}

void wake_others() { write_lapic(kCommandLow, kFixedAllButSelf | VECTOR_WAKE); }

void wake_first() {
    write_lapic(kCommandHigh, per_cpu[0].apic_id << 24);
    write_lapic(kCommandLow, kFixed | VECTOR_WAKE);
}

bool route_interrupt(u32 pin, u32 vector) {
    if (read_ioapic(kIoapicVersion) == 0xffffffff) return false;
    write_ioapic(kIoapicRoutes + pin * 2 + 1, self().apic_id << 24);
    write_ioapic(kIoapicRoutes + pin * 2, vector);
    return true;
}

void start_ticks(u32 hz) {
    PerCpu& cpu = self();
    const u64 cycles = nanoseconds_to_tsc(kLapicHz / hz);
    if (cycles != 0 && has_deadline_timer()) {
        cpu.period = cycles;
        cpu.deadline_mode = 1;
        write_lapic(kTimer, kDeadlineMode | VECTOR_TICK);
        const u64 deadline = read_tsc() + cycles;
        cpu.deadline = deadline;
        write_msr(MSR_TSC_DEADLINE, deadline);
        return;
    }
    cpu.period = kLapicHz / hz;
    write_lapic(kDivide, kDivideBy1);
    write_lapic(kTimer, VECTOR_TICK);  // one-shot: the tick's handler starts the next count
    write_lapic(LAPIC_TIMER_INITIAL, static_cast<u32>(cpu.period));
}

}  // namespace snapvm::guest
