// SPDX-License-Identifier: Apache-2.0
// One vCPU's state, and the few machine instructions that C++ needs. All C++ of this guest runs at
// CPL 3.
#pragma once

#include <cstddef>
#include <cstdint>

#include "guest-images/ledger/abi.h"
#include "guest-images/ledger/ledger_verify.h"

namespace snapvm::guest {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

// KVM's pvclock_vcpu_time_info (Documentation/virt/kvm/x86/msr.rst).
struct PvClock {
    u32 version;
    u32 padding;
    u64 tsc_timestamp;
    u64 system_time;
    u32 tsc_to_system_mul;
    std::int8_t tsc_shift;
    u8 flags;
    u16 padding2;
};
static_assert(sizeof(PvClock) == 32);

// What GS base points to at both privilege levels. traps.S uses the fields up to `self` by their
// offsets (abi.h). This vCPU's interrupts write the volatile ones among them at any time.
struct alignas(1 << PERCPU_SHIFT) PerCpu {
    volatile u64 ticks;
    volatile u64 events;  // interrupts so far
    volatile u64 last_tsc;
    volatile u64 tsc_backwards;
    volatile u64 deadline;
    volatile u64 period;  // in TSC cycles, or in LAPIC timer counts
    volatile u64 missed_ticks;
    volatile u32 deadline_mode;
    volatile u32 serial_pending;
    u64 frame[5];  // for the iretq that starts this vCPU's C++ code
    u64 trap_depth;
    u64 trap_stack;
    PerCpu* self;
    PvClock clock;  // written by KVM once registered
    u32 index;
    u32 apic_id;
    bool has_clock;
    u64 last_ns;  // newest reading of kvmclock
    u64 clock_backwards;
    volatile u32 acknowledged;  // the newest control word that this vCPU has stopped for (control.h)
    volatile u32 verified;
    volatile u32 initialised;
    ledger::Finding finding;
};
static_assert(offsetof(PerCpu, ticks) == PERCPU_TICKS && offsetof(PerCpu, events) == PERCPU_EVENTS);
static_assert(offsetof(PerCpu, last_tsc) == PERCPU_LAST_TSC && offsetof(PerCpu, tsc_backwards) == PERCPU_TSC_BACKWARDS);
static_assert(offsetof(PerCpu, deadline) == PERCPU_DEADLINE && offsetof(PerCpu, period) == PERCPU_PERIOD);
static_assert(offsetof(PerCpu, missed_ticks) == PERCPU_MISSED && offsetof(PerCpu, frame) == PERCPU_FRAME);
static_assert(offsetof(PerCpu, deadline_mode) == PERCPU_DEADLINE_MODE &&
              offsetof(PerCpu, serial_pending) == PERCPU_SERIAL);
static_assert(offsetof(PerCpu, trap_depth) == PERCPU_TRAP_DEPTH && offsetof(PerCpu, trap_stack) == PERCPU_TRAP_STACK);
static_assert(offsetof(PerCpu, self) == PERCPU_SELF && sizeof(PerCpu) == 1 << PERCPU_SHIFT);

extern "C" PerCpu per_cpu[MAX_CPUS];

inline PerCpu& self() {
    PerCpu* cpu;
    asm("movq %%gs:%c1, %0" : "=r"(cpu) : "i"(PERCPU_SELF));
    return *cpu;
}

// Sleeps until an interrupt. Returns at once if one came since `events` was read from
// self().events.
inline void halt(u64 events) { asm volatile("ud2" : : "a"(CALL_HALT), "b"(events) : "memory", "cc"); }
inline void write_msr(u32 msr, u64 value) {
    u64 call = CALL_WRMSR;
    asm volatile("ud2" : "+a"(call) : "c"(msr), "S"(value & 0xffffffff), "d"(value >> 32) : "memory", "cc");
}
[[noreturn]] inline void triple_fault() {
    for (;;) asm volatile("ud2" : : "a"(CALL_TRIPLE_FAULT) : "memory");
}

inline void out8(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "d"(port) : "memory"); }
inline void out16(u16 port, u16 value) { asm volatile("outw %0, %1" : : "a"(value), "d"(port) : "memory"); }
inline void out32(u16 port, u32 value) { asm volatile("outl %0, %1" : : "a"(value), "d"(port) : "memory"); }
inline u8 in8(u16 port) {
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "d"(port) : "memory");
    return value;
}
inline void out8_string(u16 port, const char* text, std::size_t size) {
    asm volatile("rep outsb" : "+S"(text), "+c"(size) : "d"(port) : "memory");
}

inline u64 read_tsc() {
    u32 low, high;
    asm volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (u64{high} << 32) | low;
}
struct CpuidResult {
    u32 a, b, c, d;
};
inline CpuidResult cpuid(u32 leaf) {
    CpuidResult r;
    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
    return r;
}
inline void pause() { asm volatile("pause" : : : "memory"); }

inline u32 read_mmio(u64 address) {
    u32 value;
    asm volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
    return value;
}
inline u8 read_mmio8(u64 address) {
    u8 value;
    asm volatile("movb (%1), %0" : "=q"(value) : "r"(address) : "memory");
    return value;
}
inline u16 read_mmio16(u64 address) {
    u16 value;
    asm volatile("movw (%1), %0" : "=r"(value) : "r"(address) : "memory");
    return value;
}
inline void write_mmio(u64 address, u32 value) {
    asm volatile("movl %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

// Stores and loads that other vCPUs may watch. x86 keeps a CPU's stores in order, so it is enough
// to keep the compiler to that order.
template <typename T>
void publish(T& place, T value) {
    __atomic_store_n(&place, value, __ATOMIC_RELEASE);
}
template <typename T>
T observe(const T& place) {
    return __atomic_load_n(&place, __ATOMIC_ACQUIRE);
}

}  // namespace snapvm::guest
