// SPDX-License-Identifier: Apache-2.0
// Starts machines as `run` and `restore` are told to: here, in the background, or with this process
// as the console. Prints the reports.
#pragma once

#include <chrono>
#include <functional>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/host_options.h"
#include "vmm/control/restore_machine.h"

namespace snapvm::cli {

/// `run` and `restore` differ only in these.
struct Launch {
    HostOptions options;
    Globals globals;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    bool start_paused = false;
    bool boots = false;  ///< VmProcessOptions::boots
    /// Builds the machine, in its own process. `clone` is its number among several, else 0.
    std::function<Result<BuiltMachine>(const kvm::System&, unsigned clone)> build;
};

/// Runs the machine to its end in this process and returns the exit code. With `detach`, starts it
/// in another process and returns 0 as soon as it runs. If stdin is a terminal, the machine runs in
/// another process, too, and this one is its console.
Result<int> launch(Launch wanted);
/// Starts `count` machines, each in its own process. They are named NAME-0 and so on; if NAME has
/// "{i}", their number replaces it. Prints each at once. If one fails, or a signal comes that ends
/// a run (SIGINT, …), the others are ended; after a signal the exit code is 128 and its number.
Result<int> launch_many(Launch wanted, unsigned count);

}  // namespace snapvm::cli
