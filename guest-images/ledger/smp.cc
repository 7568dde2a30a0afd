// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/smp.h"

#include "guest-images/ledger/apic.h"

namespace snapvm::guest {

extern "C" {
PerCpu per_cpu[MAX_CPUS];
u8 cpu_index_of_apic[256];
extern u64 gdt[];
extern const u8 tss0[TSS_LIMIT + 1];
extern const u8 trampoline[], trampoline_end[];
// Sizes are those of entry.S.
extern u8 user_stacks[MAX_CPUS][16384], kernel_stacks[MAX_CPUS][2048], trap_stacks[MAX_CPUS][4096];
void ap_main(u32 index);
}

namespace {

constexpr u32 kFirstTss = SEL_TSS / 8;

alignas(512) u8 tss[MAX_CPUS][512];

void prepare(u32 index, u32 apic_id) {
    PerCpu& cpu = per_cpu[index];
    cpu.self = &cpu;
    cpu.index = index;
    cpu.apic_id = apic_id;
    cpu.trap_stack = reinterpret_cast<u64>(trap_stacks[index + 1]) - 8;
}

void prepare_tables(u32 index) {
    __builtin_memcpy(tss[index], tss0, TSS_LIMIT + 1);
    const u64 stack = reinterpret_cast<u64>(kernel_stacks[index + 1]);
    __builtin_memcpy(tss[index] + 4, &stack, 8);
    const u64 base = reinterpret_cast<u64>(tss[index]);
    gdt[kFirstTss + index * 2] = TSS_LIMIT | (base & 0xffffff) << 16 | 0x89ULL << 40 | (base >> 24 & 0xff) << 56;
    gdt[kFirstTss + index * 2 + 1] = base >> 32;
    u64* frame = per_cpu[index].frame;
    frame[0] = reinterpret_cast<u64>(&ap_main);
    frame[1] = SEL_USER_CODE;
    frame[2] = USER_RFLAGS;
    frame[3] = reinterpret_cast<u64>(user_stacks[index + 1]) - 8;
    frame[4] = SEL_USER_DATA;
}

}  // namespace

void prepare_first_cpu(u32 apic_id) { prepare(0, apic_id); }

void start_other_cpus(const CpuList& cpus) {
    if (cpus.count < 2) return;
    __builtin_memcpy(reinterpret_cast<void*>(TRAMPOLINE), trampoline, static_cast<u64>(trampoline_end - trampoline));
    for (u32 i = 1; i < cpus.count; ++i) {
        cpu_index_of_apic[cpus.apic_ids[i]] = static_cast<u8>(i);
        prepare(i, cpus.apic_ids[i]);
        prepare_tables(i);
    }
    enable_lapic();
    for (u32 i = 1; i < cpus.count; ++i) start_cpu(cpus.apic_ids[i], TRAMPOLINE >> 12);
}

}  // namespace snapvm::guest
