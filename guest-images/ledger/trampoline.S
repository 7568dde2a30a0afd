// SPDX-License-Identifier: Apache-2.0
// A further CPU starts here in real mode, with CS = TRAMPOLINE >> 4. smp.cc copies
// trampoline..trampoline_end to TRAMPOLINE. PE and PG are set in one step, which leads from real
// mode straight into long mode.
#include "guest-images/ledger/abi.h"

    .section .text.trampoline, "ax"
    .globl trampoline, trampoline_end
    .code16
trampoline:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - trampoline
    mov $CR4_VALUE, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    mov $0x100, %eax
    xor %edx, %edx
    wrmsr
    mov $CR0_VALUE, %eax
    mov %eax, %cr0
    ljmpl $SEL_KERNEL_CODE, $ap_entry
    .balign 8
ap_gdt_pointer:
    .word (5 + 2 * MAX_CPUS) * 8 - 1
    .long gdt
trampoline_end:
    .code64
    .section .note.GNU-stack, "", @progbits
