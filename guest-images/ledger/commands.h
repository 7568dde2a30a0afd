// SPDX-License-Identifier: Apache-2.0
// Commands are single bytes on the serial line (README.md lists them).
#pragma once

#include "guest-images/ledger/options.h"

namespace snapvm::guest {

// Remembers what later verifications compare with. The first vCPU calls it after it has registered
// its clock.
void start_checks();
// Reads and carries out every command that has arrived.
void handle_commands(const Options& options);
// Verifies all shards, disk, clocks and devices, and prints the result. Returns true if it found no
// fault.
bool verify_and_print();
[[noreturn]] void verify_and_exit();

}  // namespace snapvm::guest
