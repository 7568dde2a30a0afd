// SPDX-License-Identifier: Apache-2.0
// Ways out, and the test port.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// What the entry code read from the test port.
void set_test_port(u32 magic);
bool has_test_port();
void test_ready();
void test_mark(u32 value);

// EXIT through the test port; without one, reboot (a VMM's test harness reads the serial line then).
[[noreturn]] void exit_guest(int code);
[[noreturn]] void reboot();
[[noreturn]] void power_off();
[[noreturn]] void debug_exit(u8 value);
// Prints why the guest cannot go on, and exits with 98.
[[noreturn]] void panic(const char* why);

}  // namespace snapvm::guest
