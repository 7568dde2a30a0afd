// SPDX-License-Identifier: Apache-2.0
// The commands of `snapvm`. Each has an `add_…` function that declares the subcommand, its options
// and its action. Results go to stdout, progress and errors to stderr.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/command_line.h"

namespace snapvm::cli {

/// The options of every command.
struct Globals {
    std::string run_dir;  ///< --run-dir; empty: the default (RunDir)
    bool json = false;  ///< --json
};

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

/// Returns 2 for a mistake on the command line, 1 for any other error.
[[nodiscard]] inline int exit_code_of(const Error& error) {
    return error.kind() == ErrorKind::usage ? kExitUsage : kExitFailure;
}

// run.cc, restore.cc
void add_run(Command program, Globals& globals);
void add_restore(Command program, Globals& globals);
// control*.cc: commands to running machines
void add_pause(Command program, Globals& globals);
void add_resume(Command program, Globals& globals);
void add_stop(Command program, Globals& globals);
void add_wait(Command program, Globals& globals);
void add_stats(Command program, Globals& globals);
void add_ps(Command program, Globals& globals);
void add_rm(Command program, Globals& globals);
void add_prune(Command program, Globals& globals);
void add_console(Command program, Globals& globals);
void add_snapshot(Command program, Globals& globals);
void add_snapshot_status(Command program, Globals& globals);
void add_snapshot_cancel(Command program, Globals& globals);
void add_balloon(Command program, Globals& globals);
void add_detach(Command program, Globals& globals);
// area.cc: commands on snapshot areas
void add_area(Command program, Globals& globals);
void add_size(Command program, Globals& globals);
void add_inspect(Command program, Globals& globals);
void add_verify(Command program, Globals& globals);
// disk.cc: commands on disk images
void add_disk(Command program, Globals& globals);
// doctor.cc, demo.cc
void add_doctor(Command program, Globals& globals);
void add_demo(Command program, Globals& globals);

}  // namespace snapvm::cli
