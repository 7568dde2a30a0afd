// SPDX-License-Identifier: Apache-2.0
// All that runs at CPL 0 after start-up: the call gate, the tick, wake-up interrupts, and the way
// from an exception to its report at CPL 3. Interrupt entries change only registers that they save.
// No entry changes an SSE register.
#include "guest-images/ledger/abi.h"

    .section .text.traps, "ax"

// #UD from CPL 3 with a call number in EAX is a call. `ud2` is the one way to CPL 0 that works on
// every host: if KVM emulates CPL 0, `int n` and SYSCALL do not. Arguments: halt RBX; wrmsr ECX,
// RSI (low), RDX (high); rdmsr ECX, result EDX:EAX.
trap_6:
    testb $3, 8(%rsp)
    jz 9f
    cmp $CALL_HALT, %eax
    jne 2f
    // Halts unless an interrupt came since the caller read the count. Interrupts are off here, so
    // none can come between the comparison and the halt.
    cmp %rbx, %gs:PERCPU_EVENTS
    jne 1f
    sti
    hlt
1:  addq $2, (%rsp)
    iretq
2:  cmp $CALL_WRMSR, %eax
    jne 3f
    mov %esi, %eax
    wrmsr
    jmp 1b
3:  cmp $CALL_RDMSR, %eax
    jne 4f
    rdmsr
    jmp 1b
4:  cmp $CALL_TRIPLE_FAULT, %eax
    je triple_fault
9:  push $0
    push $6
    jmp trap_common

    .globl tick_entry
tick_entry:
    push %rax
    push %rcx
    push %rdx
    incq %gs:PERCPU_TICKS
    incq %gs:PERCPU_EVENTS
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    cmp %gs:PERCPU_LAST_TSC, %rax
    jae 1f
    incq %gs:PERCPU_TSC_BACKWARDS
1:  mov %rax, %gs:PERCPU_LAST_TSC
    cmpl $0, %gs:PERCPU_DEADLINE_MODE
    je 4f
    // The next deadline is the last one plus a period, so that ticks do not drift. It is now plus a
    // period instead, if the tick is late, or if a restore changed the TSC: that is, unless the
    // deadline is 1 to two periods of cycles ahead. (deadline - now - 1) / 2 < period tests both
    // bounds at once, because a deadline that has passed wraps to a large number.
    mov %gs:PERCPU_DEADLINE, %rdx
    add %gs:PERCPU_PERIOD, %rdx
    mov %rdx, %rcx
    sub %rax, %rcx
    dec %rcx
    shr %rcx
    cmp %gs:PERCPU_PERIOD, %rcx
    jb 2f
    incq %gs:PERCPU_MISSED
    mov %rax, %rdx
    add %gs:PERCPU_PERIOD, %rdx
2:  mov %rdx, %gs:PERCPU_DEADLINE
    mov %edx, %eax
    shr $32, %rdx
    mov $MSR_TSC_DEADLINE, %ecx
    wrmsr
3:  mov $LAPIC_BASE, %eax
    movl $0, LAPIC_EOI(%rax)
    pop %rdx
    pop %rcx
    pop %rax
    iretq
4:  mov %gs:PERCPU_PERIOD, %ecx
    mov $LAPIC_BASE, %eax
    mov %ecx, LAPIC_TIMER_INITIAL(%rax)
    jmp 3b

    .globl serial_entry, wake_entry, spurious_entry
serial_entry:
    movl $1, %gs:PERCPU_SERIAL
wake_entry:
    incq %gs:PERCPU_EVENTS
    push %rax
    mov $LAPIC_BASE, %eax
    movl $0, LAPIC_EOI(%rax)
    pop %rax
spurious_entry:
    iretq

// One entry for each virtio device. It counts the interrupt; the device's driver does the rest.
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
device_entry_\n:
    incq device_interrupts + 8 * \n
    jmp wake_entry
    .endr

.macro exception vector, has_error=0
trap_\vector:
    .if !\has_error
    push $0
    .endif
    push $\vector
    jmp trap_common
.endm
    exception 0
    exception 1
    exception 2
    exception 3
    exception 4
    exception 5
    exception 7
    exception 8, 1
    exception 9
    exception 10, 1
    exception 11, 1
    exception 12, 1
    exception 13, 1
    exception 14, 1
    exception 15
    exception 16
    exception 17, 1
    exception 18
    exception 19
    exception 20
    exception 21, 1

// Continues in report_trap(TrapFrame*) at CPL 3, with interrupts off, on a stack of its own. A
// second trap leads to a triple fault.
trap_common:
    incq %gs:PERCPU_TRAP_DEPTH
    cmpq $1, %gs:PERCPU_TRAP_DEPTH
    jne triple_fault
    push %rax
    mov %cr2, %rax
    push %rax
    mov %rsp, %rdi
    mov %gs:PERCPU_TRAP_STACK, %rax
    push $SEL_USER_DATA
    push %rax
    push $USER_RFLAGS_MASKED
    push $SEL_USER_CODE
    push $report_trap
    iretq

triple_fault:
    lidt no_idt
    ud2

    .section .rodata
no_idt:
    .word 0
    .quad 0
    .balign 8
    .globl exception_entries
exception_entries:
    .irp v, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21
    .quad trap_\v
    .endr
    .globl device_entries
device_entries:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    .quad device_entry_\n
    .endr
    .if (. - device_entries) != 8 * VIRTIO_DEVICES
    .error "not an entry for each device"
    .endif
    .section .note.GNU-stack, "", @progbits
