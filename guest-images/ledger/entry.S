// SPDX-License-Identifier: Apache-2.0
// Both entries, and the tables that exist from the first instruction on. On a host whose KVM
// emulates CPL 0 each instruction here costs about 650 ns, so the linker lays out what it can, and
// everything else waits for CPL 3. 34 instructions lead from the PVH entry to main(), 28 from the
// Linux entry.
#include "guest-images/ledger/abi.h"

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

    .section .text.entry, "ax"
    .globl pvh_entry
    .code32
pvh_entry:                              // 32-bit protected mode, no paging, EBX = hvm_start_info
    lgdt gdt_pointer
    mov $CR4_VALUE, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    mov $0x100, %eax                    // LME
    xor %edx, %edx
    wrmsr
    mov $CR0_VALUE, %eax
    mov %eax, %cr0
    ljmp $SEL_KERNEL_CODE, $1f
    .code64
1:  mov %ebx, %edi
    mov $BOOT_PVH, %esi
    jmp common

    .globl linux64_entry
linux64_entry:                          // long mode, identity mapped, RSI = boot_params
    mov %rsi, %rdi
    mov $BOOT_LINUX64, %esi
    lgdt gdt_pointer
    mov $CR4_VALUE, %eax
    mov %rax, %cr4
    mov $pml4, %eax
    mov %rax, %cr3
    mov $CR0_VALUE, %eax
    mov %rax, %cr0

    // RDI and RSI hold main()'s first two arguments. CS may still be the VMM's: iretq is the first
    // to load one from our GDT.
common:
    lidt idt_pointer
    mov $SEL_TSS, %eax
    ltr %ax
    xor %eax, %eax
    mov %eax, %gs                       // null: iretq then keeps GS base
    mov $MSR_GS_BASE, %ecx
    mov $per_cpu, %eax
    xor %edx, %edx
    wrmsr
    // A PIC, if the machine has one, may be unmasked and wired to LINT0, with vectors among the
    // exceptions' ones. So LINT0 is masked.
    mov $LAPIC_BASE, %eax
    movl $0x10000, LAPIC_LINT0(%rax)
    // Two port accesses happen here, because an exit from an emulated CPL 0 costs a third of one
    // from CPL 3. The first enables the serial FIFO: enabling it later could drop bytes that came
    // before. The second looks for the test port.
    mov $PORT_SERIAL + 2, %edx
    mov $1, %al
    out %al, (%dx)
    mov $PORT_TEST, %edx
    in (%dx), %eax
    mov %eax, %edx
    mov $first_frame, %esp
    iretq

    // Long-mode entry of a further CPU, from the trampoline. It finds its PerCpu by its LAPIC id.
    .globl ap_entry
ap_entry:
    mov $LAPIC_BASE + LAPIC_ID, %eax
    mov (%rax), %eax
    shr $24, %eax
    movzbl cpu_index_of_apic(%rax), %edi
    mov %edi, %eax
    shl $PERCPU_SHIFT, %eax
    lea per_cpu(%rax), %ebx
    mov %edi, %eax
    shl $4, %eax
    add $SEL_TSS, %eax
    lidt idt_pointer
    ltr %ax
    xor %eax, %eax
    mov %eax, %gs
    mov $MSR_GS_BASE, %ecx
    mov %ebx, %eax
    xor %edx, %edx
    wrmsr
    lea PERCPU_FRAME(%rbx), %rsp
    iretq

    .data
    .balign 16
first_frame:                            // the frame with which iretq enters CPL 3
    .quad main, SEL_USER_CODE, USER_RFLAGS, user_stacks + USER_STACK - 8, SEL_USER_DATA

    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 64-bit code, CPL 0
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff            // data, CPL 3
    .quad 0x00affb000000ffff            // 64-bit code, CPL 3
    // The linker script splits the address of the first CPU's TSS; smp.cc fills in the others.
    .word TSS_LIMIT, tss0_bits_0
    .byte tss0_bits_16, 0x89, 0, tss0_bits_24
    .quad 0
    .fill (MAX_CPUS - 1) * 2, 8, 0
gdt_end:

    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .globl idt_pointer
idt_pointer:
    .word 256 * 16 - 1
    .quad idt                           // filled by traps.cc, at CPL 3

    .balign 512                         // a TSS may not cross a page
    .globl tss0
tss0:
    .long 0
    .quad kernel_stacks + KERNEL_STACK
    .fill 90, 1, 0
    .word TSS_BITMAP
    .fill 12, 1, 0xff
    .byte 0xef                          // 0x64
    .fill 17, 1, 0xff
    .byte 0xef                          // 0xf4
    .fill 96, 1, 0xff
    .byte 0                             // 0x3f8 to 0x3ff
    .fill 62, 1, 0xff
    .byte 0, 0, 0                       // 0x5f0 to 0x607
    .byte 0xff
    .if (. - tss0) != TSS_LIMIT + 1
    .error "TSS and its bitmap do not have the size abi.h says"
    .endif

    // Page tables for the first GiB, and for the GiB that has the devices and firmware tables;
    // paging.cc adds others on demand. Entries are present, writable and user. Accessed and dirty
    // are set ahead, so that no page walk writes them.
    .balign 4096
    .globl pml4
pml4:
    .quad pdpt + 0x27
    .fill 511, 8, 0
    .globl pdpt
pdpt:
    .quad pd_first + 0x27
    .quad 0, 0
    .quad pd_devices + 0x27
    .fill 508, 8, 0
pd_first:
    .set i, 0
    .rept 512
    .quad (i << 21) + 0xe7
    .set i, i + 1
    .endr
pd_devices:
    .set i, 1536
    .rept 502
    .quad (i << 21) + 0xe7
    .set i, i + 1
    .endr
    .rept 10                            // 0xfec00000 and up: uncached
    .quad (i << 21) + 0xff
    .set i, i + 1
    .endr

    .set USER_STACK, 16384
    .set KERNEL_STACK, 2048
    .set TRAP_STACK, 4096
    .bss
    .balign 4096
    .globl user_stacks, kernel_stacks, trap_stacks
user_stacks:   .skip USER_STACK * MAX_CPUS
kernel_stacks: .skip KERNEL_STACK * MAX_CPUS
trap_stacks:   .skip TRAP_STACK * MAX_CPUS
    .section .note.GNU-stack, "", @progbits
