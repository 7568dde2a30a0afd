// SPDX-License-Identifier: Apache-2.0
// snapvm: finds the command, runs it, and prints an error as one line.
#include <malloc.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/cli/commands.h"
#include "vmm/cli/output.h"

namespace snapvm::cli {
namespace {

using Adder = void (*)(Command, Globals&);

constexpr std::pair<std::string_view, Adder> kCommands[] = {
    {"run", add_run},
    {"restore", add_restore},
    {"snapshot", add_snapshot},
    {"pause", add_pause},
    {"resume", add_resume},
    {"stop", add_stop},
    {"wait", add_wait},
    {"stats", add_stats},
    {"ps", add_ps},
    {"rm", add_rm},
    {"prune", add_prune},
    {"console", add_console},
    {"area", add_area},
    {"size", add_size},
    {"inspect", add_inspect},
    {"verify", add_verify},
    {"doctor", add_doctor},
    {"demo", add_demo},
    {"snapshot-status", add_snapshot_status},
    {"snapshot-cancel", add_snapshot_cancel},
    {"detach", add_detach},
    {"balloon", add_balloon},
};

bool is_command(std::string_view word) {
    return std::ranges::any_of(kCommands, [&](const auto& command) { return command.first == word; });
}

// Adds only the wanted command, since declaring the options of all takes a good part of a
// millisecond. Adds all for --help and for an unknown name.
void add_commands(Command program, std::string_view wanted, Globals& globals) {
    for (const auto& [name, add] : kCommands) {
        if (name == wanted) {
            add(program, globals);
            return;
        }
    }
    for (const auto& [name, add] : kCommands) {
        add(program, globals);
    }
}

int main(int argc, char** argv) {
    Globals globals;
    CommandLine line("snapvm", "A KVM mini-hypervisor with snapshots built in", SNAPVM_VERSION);
    line.program().option(
        "--run-dir", globals.run_dir,
        "the folder in which machines are found (default: $SNAPVM_RUN_DIR, $XDG_RUNTIME_DIR/snapvm, or "
        "/run/snapvm for root)");
    line.program().flag("--json", globals.json, "print results as JSON");
    add_commands(line.program(), argc > 1 ? argv[1] : "", globals);
    const Result<Action> action = line.parse(argc, argv);
    if (!action && argc > 1 && argv[1][0] != '-' && !is_command(argv[1])) {
        print_error("there is no command " + std::string(argv[1]) + "; see snapvm --help");
        return kExitUsage;
    }
    if (!action) {
        print_error(action.error().message() + "; see snapvm --help");
        return kExitUsage;
    }
    const Result<int> code = (*action)();
    if (!code) {
        print_error(code.error().message());
        return exit_code_of(code.error());
    }
    return *code;
}

}  // namespace
}  // namespace snapvm::cli

int main(int argc, char** argv) {
    // One heap for all threads. A heap for each thread would be mapped at its first allocation and
    // unmapped at its end, which delays the guest's page faults. No thread here allocates much.
    ::mallopt(M_ARENA_MAX, 1);  // NOLINT(concurrency-mt-unsafe): before any thread
    return snapvm::cli::main(argc, argv);
}
