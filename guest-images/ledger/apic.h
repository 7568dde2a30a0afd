// SPDX-License-Identifier: Apache-2.0
// LAPIC (xAPIC, memory mapped) and IOAPIC, driven from CPL 3.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Software-enables this vCPU's LAPIC. Until one is, KVM may drop INIT and SIPI.
void enable_lapic();
// INIT, then SIPI to `start_page` (a page below 1 MiB).
void start_cpu(u32 apic_id, u32 start_page);
// Interrupts every other vCPU, so that those asleep look around.
void wake_others();
// Interrupts the first vCPU.
void wake_first();
// Sends an IOAPIC pin (edge, active high) to this vCPU. False without an IOAPIC.
bool route_interrupt(u32 pin, u32 vector);
// Ticks on this vCPU, `hz` a second: TSC deadline if there is one and the TSC's rate is known, else the LAPIC's own
// counter, taken to run at KVM's 1 GHz.
void start_ticks(u32 hz);

}  // namespace snapvm::guest
