// SPDX-License-Identifier: Apache-2.0
// Commands: single bytes on the serial line (README.md lists them).
#pragma once

#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// Remembers what a verification compares with later. First vCPU, once the clock is registered.
void start_checks();
// Reads and carries out every command that has arrived.
void handle_commands(const Options& options);
// Verifies and prints the result; true if all is well.
bool verify_and_print();
[[noreturn]] void verify_and_exit();

}  // namespace snapvm::guest
