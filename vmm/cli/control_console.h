// SPDX-License-Identifier: Apache-2.0
// This process as the console of a machine that runs in another one.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/run_dir.h"

namespace snapvm::cli {

/// The machine's terminal (the serial port or the virtio console) on stdin and stdout until the machine has ended and its process is gone;
/// then the exit code of its run. With a terminal on stdin: raw mode, Ctrl-a d detaches (0), Ctrl-a x stops the machine. Otherwise stdin goes to the guest until its end, and output is
/// followed on.
Result<int> attach_console(const Globals& globals, const std::string& name);
/// What the process of a machine that has ended has left to say, on stderr: for when the terminal is itself again.
void show_log(const RunDir& dir, const std::string& name);

}  // namespace snapvm::cli
