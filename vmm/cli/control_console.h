// SPDX-License-Identifier: Apache-2.0
// Makes this process the console of a machine that runs in another process.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/host/run_dir.h"

namespace snapvm::cli {

/// Connects the machine's terminal (the serial port or the virtio console) with stdin and stdout
/// until the machine has ended and its process is gone. Returns the exit code of the run. If stdin
/// is a terminal, it is in raw mode: Ctrl-a d detaches (returns 0), Ctrl-a x stops the machine.
/// Otherwise stdin goes to the guest until its end, and output continues after that.
Result<int> attach_console(const Globals& globals, const std::string& name);
/// Prints the log of a machine whose process has ended on stderr. Called after the terminal has
/// left raw mode.
void show_log(const RunDir& dir, const std::string& name);

}  // namespace snapvm::cli
