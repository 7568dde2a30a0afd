// SPDX-License-Identifier: Apache-2.0
// snapvm: finds the command, runs it, says in one line what went wrong.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string_view>
#include <utility>

#include "vmm/cli/commands.h"

namespace snapvm::cli {
namespace {

using Adder = void (*)(CLI::App&, Globals&, Action&);

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

// Declaring the options of every command takes a good part of a millisecond, so only the one that is named gets them; all do for
// --help and for a name that is not known.
void add_commands(CLI::App& app, std::string_view wanted, Globals& globals, Action& chosen) {
    for (const auto& [name, add] : kCommands) {
        if (name == wanted) {
            add(app, globals, chosen);
            return;
        }
    }
    for (const auto& [name, add] : kCommands) {
        add(app, globals, chosen);
    }
}

int main(int argc, char** argv) {
    CLI::App app("A KVM mini-hypervisor with snapshots built in", "snapvm");
    Globals globals;
    Action chosen;
    app.set_version_flag("--version", SNAPVM_VERSION);
    app.require_subcommand(1);
    app.fallthrough();
    app.add_option("--run-dir", globals.run_dir,
                   "where running machines are found (default: $XDG_RUNTIME_DIR/snapvm or /run/snapvm)");
    app.add_flag("--json", globals.json, "results as JSON");
    add_commands(app, argc > 1 ? argv[1] : "", globals, chosen);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) {
            return app.exit(error);  // --help, --version
        }
        if (argc > 1 && argv[1][0] != '-' && !is_command(argv[1])) {
            std::fprintf(stderr, "snapvm: there is no command %s; see snapvm --help\n", argv[1]);
            return kExitUsage;
        }
        std::fprintf(stderr, "snapvm: %s; see snapvm --help\n", error.what());
        return kExitUsage;
    }
    const Result<int> code = chosen();
    if (!code) {
        std::fprintf(stderr, "snapvm: %s\n", code.error().message().c_str());
        return exit_code_of(code.error());
    }
    return *code;
}

}  // namespace
}  // namespace snapvm::cli

int main(int argc, char** argv) {
    // One heap for all threads. Each thread's own would be mapped and unmapped at its first allocation, which makes the guest's page faults
    // wait; no thread here allocates much.
    ::mallopt(M_ARENA_MAX, 1);  // NOLINT(concurrency-mt-unsafe): before any thread
    return snapvm::cli::main(argc, argv);
}
