// SPDX-License-Identifier: Apache-2.0
// Numbers that the assembly and the C++ parts of the guest share. Everything about the machine comes from
// vmm/platform/PLATFORM.md; everything else is the guest's own. Plain macros, because the assembler reads them too.
#pragma once

// Segment selectors. User data stands before user code only because that is the order SYSRET would want.
#define SEL_KERNEL_CODE 0x08
#define SEL_KERNEL_DATA 0x10
#define SEL_USER_DATA 0x1b
#define SEL_USER_CODE 0x23
#define SEL_TSS 0x28  // 16 bytes for each CPU

// RFLAGS of the iretq frames that lead to CPL 3: IOPL 3, and interrupts on or off. Ports need both IOPL and the TSS' bitmap. Some hosts
// drop IOPL on iretq to CPL 3, and there the bitmap allows them. QEMU's TCG looks at the bitmap only while the TSS has type 9 (available);
// LTR makes that 11 (busy), which is what KVM gives back and a restore sets, and there IOPL allows them.
#define USER_RFLAGS 0x3202
#define USER_RFLAGS_MASKED 0x3002

#define MAX_CPUS 8

// PE MP ET NE WP PG, and PAE OSFXSR OSXMMEXCPT: only SSE2 is assumed.
#define CR0_VALUE 0x80010033
#define CR4_VALUE 0x620

#define MSR_EFER 0xC0000080
#define MSR_GS_BASE 0xC0000101
#define MSR_TSC_DEADLINE 0x6E0

#define LAPIC_BASE 0xFEE00000
#define LAPIC_ID 0x20
#define LAPIC_EOI 0xB0
#define LAPIC_LINT0 0x350
#define LAPIC_TIMER_INITIAL 0x380
#define IOAPIC_BASE 0xFEC00000

// Virtio devices: registers, IOAPIC pins and vectors of as many as there are pins for.
#define VIRTIO_BASE 0xD0000000
#define VIRTIO_STRIDE 4096
#define VIRTIO_PIN 8
#define VIRTIO_DEVICES 16

// Interrupt vectors.
#define VECTOR_TICK 0x40
#define VECTOR_SERIAL 0x41
#define VECTOR_WAKE 0x42
#define VECTOR_DEVICE 0x50  // of the first virtio device
#define VECTOR_SPURIOUS 0xFF

// Calls from CPL 3 to CPL 0: `ud2` with one of these in EAX. See traps.S.
#define CALL_HALT 0x5EA10001
#define CALL_WRMSR 0x5EA10002
#define CALL_RDMSR 0x5EA10003
#define CALL_TRIPLE_FAULT 0x5EA10004

#define PORT_SERIAL 0x3F8
#define PORT_KEYBOARD 0x64
#define PORT_DEBUG_EXIT 0xF4
#define PORT_TEST 0x5F0
#define PORT_SLEEP 0x600

#define TEST_MAGIC 0x56504E53  // "SNPV"

// The trampoline is copied here; below 640 KiB, page-aligned, and not where any VMM puts its boot data.
#define TRAMPOLINE 0x10000

#define BOOT_PVH 1
#define BOOT_LINUX64 2

// Offsets in PerCpu (cpu.h holds them against the struct).
#define PERCPU_SHIFT 9
#define PERCPU_TICKS 0
#define PERCPU_EVENTS 8
#define PERCPU_LAST_TSC 16
#define PERCPU_TSC_BACKWARDS 24
#define PERCPU_DEADLINE 32
#define PERCPU_PERIOD 40
#define PERCPU_MISSED 48
#define PERCPU_DEADLINE_MODE 56
#define PERCPU_SERIAL 60
#define PERCPU_FRAME 64
#define PERCPU_TRAP_DEPTH 104
#define PERCPU_TRAP_STACK 112
#define PERCPU_SELF 120

// TSS: 104 bytes, then the I/O permission bitmap for ports 0 to 0x607 and the closing byte of ones.
#define TSS_BITMAP 104
#define TSS_BITMAP_BYTES 193
#define TSS_LIMIT (TSS_BITMAP + TSS_BITMAP_BYTES)
