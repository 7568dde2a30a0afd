// SPDX-License-Identifier: Apache-2.0
// Sources: Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst.
#include "guest-images/ledger/clock.h"

namespace snapvm::guest {
namespace {

constexpr u32 kSystemTimeNew = 0x4b564d01;
constexpr u32 kEnable = 1;
constexpr u32 kLeafSignature = 0x40000000, kLeafFeatures = 0x40000001, kFeatureClock2 = 1 << 3;
constexpr u8 kGuestPaused = 2;

u64 base_tsc, base_ns;

u64 scale(const PvClock& clock, u64 cycles) {
    cycles = clock.tsc_shift < 0 ? cycles >> -clock.tsc_shift : cycles << clock.tsc_shift;
    return static_cast<u64>(static_cast<unsigned __int128>(cycles) * clock.tsc_to_system_mul >> 32);
}

}  // namespace

void register_clock() {
    const CpuidResult signature = cpuid(kLeafSignature);
    if (signature.b != 0x4b4d564b || signature.c != 0x564b4d56 || signature.d != 0x4d) return;  // "KVMKVMKVM"
    if ((cpuid(kLeafFeatures).a & kFeatureClock2) == 0) return;
    PerCpu& cpu = self();
    write_msr(kSystemTimeNew, reinterpret_cast<u64>(&cpu.clock) | kEnable);
    cpu.has_clock = true;
}

u64 read_clock() {
    PerCpu& cpu = self();
    if (!cpu.has_clock) return 0;
    volatile PvClock& shared = cpu.clock;
    PvClock copy;
    u64 tsc;
    do {
        copy.version = shared.version;
        copy.tsc_timestamp = shared.tsc_timestamp;
        copy.system_time = shared.system_time;
        copy.tsc_to_system_mul = shared.tsc_to_system_mul;
        copy.tsc_shift = shared.tsc_shift;
        copy.flags = shared.flags;
        tsc = read_tsc();
    } while ((copy.version & 1) != 0 || copy.version != shared.version);
    if (copy.version == 0) return 0;
    if ((copy.flags & kGuestPaused) != 0) shared.flags = copy.flags & static_cast<u8>(~kGuestPaused);
    const u64 ns = copy.system_time + scale(copy, tsc - copy.tsc_timestamp);
    if (ns < cpu.last_ns) ++cpu.clock_backwards;
    cpu.last_ns = ns;
    return ns;
}

u64 nanoseconds_to_tsc(u64 ns) {
    const PerCpu& cpu = self();
    if (cpu.has_clock && cpu.clock.tsc_to_system_mul != 0) {
        const u64 shifted = (ns << 32) / cpu.clock.tsc_to_system_mul;
        return cpu.clock.tsc_shift < 0 ? shifted << -cpu.clock.tsc_shift : shifted >> cpu.clock.tsc_shift;
    }
    // Without kvmclock, CPUID may state the TSC's nominal frequency. It counts only if it is
    // complete.
    if (cpuid(0).a < 0x15) return 0;
    const CpuidResult tsc = cpuid(0x15);
    if (tsc.a == 0 || tsc.b == 0 || tsc.c == 0) return 0;
    return static_cast<u64>(tsc.c) * tsc.b / tsc.a / 1000 * ns / 1000000;
}

std::int64_t clock_skew() {
    const PerCpu& cpu = self();
    if (!cpu.has_clock) return 0;
    const u64 ns = read_clock();
    return static_cast<std::int64_t>(ns - base_ns) - static_cast<std::int64_t>(scale(cpu.clock, read_tsc() - base_tsc));
}

void rebase_clock() {
    base_tsc = read_tsc();
    base_ns = read_clock();
}

}  // namespace snapvm::guest
