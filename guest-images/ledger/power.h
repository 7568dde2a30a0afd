// SPDX-License-Identifier: Apache-2.0
// Ends the guest, and talks to the test port.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// Remembers what the entry code read from the test port.
void set_test_port(u32 magic);
bool has_test_port();
void test_ready();
void test_mark(u32 value);

// Sends EXIT through the test port. Without one it reboots, and the VMM's test harness has to read
// the serial line.
[[noreturn]] void exit_guest(int code);
[[noreturn]] void reboot();
[[noreturn]] void power_off();
[[noreturn]] void debug_exit(u8 value);
// Prints why the guest cannot go on, and exits with code 98.
[[noreturn]] void panic(const char* why);

}  // namespace snapvm::guest
