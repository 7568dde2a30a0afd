// SPDX-License-Identifier: Apache-2.0
// Drives the LAPIC (xAPIC, memory mapped) and the IOAPIC from CPL 3.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Enables this vCPU's LAPIC by software. KVM may drop INIT and SIPI until one LAPIC is enabled.
void enable_lapic();
// Sends INIT, then SIPI with `start_page`, the number of a page below 1 MiB.
void start_cpu(u32 apic_id, u32 start_page);
// Interrupts every other vCPU, so that one that sleeps checks its conditions again.
void wake_others();
// Interrupts the first vCPU.
void wake_first();
// Sends an IOAPIC pin (edge, active high) to this vCPU. Returns false if there is no IOAPIC.
bool route_interrupt(u32 pin, u32 vector);
// Starts `hz` ticks a second on this vCPU. Uses the TSC deadline timer if there is one and the
// TSC's rate is known, else the LAPIC's own counter, which is taken to run at KVM's 1 GHz.
void start_ticks(u32 hz);

}  // namespace snapvm::guest
