// SPDX-License-Identifier: Apache-2.0
// Numbers that the assembly and the C++ parts of the guest share. Numbers of the machine come from
// vmm/platform/PLATFORM.md; the guest chooses all others. They are macros because the assembler
// reads them too.
#pragma once

// Segment selectors. User data stands before user code, as SYSRET would require.
#define SEL_KERNEL_CODE 0x08
#define SEL_KERNEL_DATA 0x10
#define SEL_USER_DATA 0x1b
#define SEL_USER_CODE 0x23
#define SEL_TSS 0x28  // each vCPU's TSS takes 16 bytes

// RFLAGS of the iretq frames that lead to CPL 3: IOPL 3, with interrupts on or off. The guest
// allows its ports twice, by IOPL and by the TSS' bitmap, because either one fails on some host.
// Some hosts drop IOPL on iretq to CPL 3; there the bitmap allows the ports. QEMU's TCG reads the
// bitmap only if the TSS has type 9 (available), but LTR makes that type 11 (busy), which KVM
// returns and a restore sets; there IOPL allows the ports.
#define USER_RFLAGS 0x3202
#define USER_RFLAGS_MASKED 0x3002

#define MAX_CPUS 8

// CR0 has PE MP ET NE WP PG, CR4 has PAE OSFXSR OSXMMEXCPT. The guest assumes SSE2 and no later
// extension.
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

// Registers, IOAPIC pins and vectors of virtio devices. The IOAPIC has pins for VIRTIO_DEVICES of
// them.
#define VIRTIO_BASE 0xD0000000
#define VIRTIO_STRIDE 4096
#define VIRTIO_PIN 8
#define VIRTIO_DEVICES 16

// Interrupt vectors.
#define VECTOR_TICK 0x40
#define VECTOR_SERIAL 0x41
#define VECTOR_WAKE 0x42
#define VECTOR_DEVICE 0x50  // of the first virtio device; the others follow
#define VECTOR_SPURIOUS 0xFF

// Calls from CPL 3 to CPL 0: `ud2` with one of these in EAX (traps.S).
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

// smp.cc copies the trampoline here. The place is page-aligned and below 640 KiB, and no VMM puts
// boot data there.
#define TRAMPOLINE 0x10000

#define BOOT_PVH 1
#define BOOT_LINUX64 2

// Offsets in PerCpu. cpu.h compares them with the struct.
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

// A TSS is 104 bytes, then the I/O permission bitmap for ports 0 to 0x607 and the closing byte of
// ones.
#define TSS_BITMAP 104
#define TSS_BITMAP_BYTES 193
#define TSS_LIMIT (TSS_BITMAP + TSS_BITMAP_BYTES)
