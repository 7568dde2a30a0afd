// SPDX-License-Identifier: Apache-2.0
// The commands of `snapvm`, one `add_…` each: it declares the subcommand's options and, when that subcommand is the one given, sets the
// action to run. Results go to stdout, progress and errors to stderr.
#pragma once

#include <functional>
#include <string>

#include "vmm/base/error.h"

namespace CLI {
class App;
}

namespace snapvm::cli {

/// Options that every command understands.
struct Globals {
    std::string run_dir;  ///< --run-dir; empty: the default (RunDir)
    bool json = false;  ///< --json
};

/// What a command does once its options are parsed; the process' exit code.
using Action = std::function<Result<int>()>;

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

/// 2 for what the user got wrong on the command line, 1 for all else.
[[nodiscard]] inline int exit_code_of(const Error& error) { return error.kind() == ErrorKind::usage ? kExitUsage : kExitFailure; }

// run.cc, restore.cc
void add_run(CLI::App& app, Globals& globals, Action& chosen);
void add_restore(CLI::App& app, Globals& globals, Action& chosen);
// control.cc: commands to a running machine
void add_pause(CLI::App& app, Globals& globals, Action& chosen);
void add_resume(CLI::App& app, Globals& globals, Action& chosen);
void add_stop(CLI::App& app, Globals& globals, Action& chosen);
void add_wait(CLI::App& app, Globals& globals, Action& chosen);
void add_stats(CLI::App& app, Globals& globals, Action& chosen);
void add_ps(CLI::App& app, Globals& globals, Action& chosen);
void add_console(CLI::App& app, Globals& globals, Action& chosen);
void add_snapshot(CLI::App& app, Globals& globals, Action& chosen);
void add_snapshot_status(CLI::App& app, Globals& globals, Action& chosen);
void add_snapshot_cancel(CLI::App& app, Globals& globals, Action& chosen);
void add_balloon(CLI::App& app, Globals& globals, Action& chosen);
void add_detach(CLI::App& app, Globals& globals, Action& chosen);
// area.cc: commands on snapshot areas
void add_area(CLI::App& app, Globals& globals, Action& chosen);
void add_size(CLI::App& app, Globals& globals, Action& chosen);
void add_inspect(CLI::App& app, Globals& globals, Action& chosen);
void add_verify(CLI::App& app, Globals& globals, Action& chosen);
// doctor.cc, demo.cc
void add_doctor(CLI::App& app, Globals& globals, Action& chosen);
void add_demo(CLI::App& app, Globals& globals, Action& chosen);

}  // namespace snapvm::cli
