// SPDX-License-Identifier: Apache-2.0
// snapvm: finds the command, runs it, and prints an error as one line.
#include <malloc.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "vmm/cli/commands.h"
#include "vmm/cli/manual.h"
#include "vmm/cli/output.h"
#include "vmm/host/inheritance.h"
#include "vmm/host/process_title.h"

namespace snapvm::cli {
namespace {

using Adder = void (*)(Command, Globals&);

struct Entry {
    const char* section;  ///< its heading in snapvm --help
    std::string_view name;
    Adder add;
};
constexpr Entry kCommands[] = {
    {"Start machines", "run", add_run},
    {"Start machines", "restore", add_restore},
    {"Control machines", "ps", add_ps},
    {"Control machines", "wait", add_wait},
    {"Control machines", "console", add_console},
    {"Control machines", "pause", add_pause},
    {"Control machines", "resume", add_resume},
    {"Control machines", "stop", add_stop},
    {"Control machines", "stats", add_stats},
    {"Control machines", "balloon", add_balloon},
    {"Control machines", "rm", add_rm},
    {"Control machines", "prune", add_prune},
    {"Snapshots", "snapshot", add_snapshot},
    {"Snapshots", "snapshot-status", add_snapshot_status},
    {"Snapshots", "snapshot-cancel", add_snapshot_cancel},
    {"Snapshots", "detach", add_detach},
    {"Snapshots", "area", add_area},
    {"Snapshots", "size", add_size},
    {"Snapshots", "inspect", add_inspect},
    {"Snapshots", "verify", add_verify},
    {"Disks", "disk", add_disk},
    {"This host", "doctor", add_doctor},
    {"This host", "demo", add_demo},
};

// Adds only the wanted command, since declaring the options of all takes a good part of a
// millisecond. Adds all for --help, for a second name, and for an unknown one.
void add_commands(Command program, std::string_view wanted, Globals& globals) {
    for (const Entry& entry : kCommands) {
        if (entry.name == wanted) {
            entry.add(program, globals);
            return;
        }
    }
    for (const Entry& entry : kCommands) {
        program.section(entry.section);
        entry.add(program, globals);
    }
}

// Returns the words with what other programs have as commands: "help run" is "run --help", and
// "version" is "--version".
std::vector<const char*> usual_words(int argc, char** argv) {
    std::vector<const char*> words(argv, argv + argc);
    const std::string_view first = argc > 1 ? argv[1] : "";
    if (first == "version") {
        words[1] = "--version";
    } else if (first == "help") {
        words.erase(words.begin() + 1);
        words.push_back("--help");
    }
    return words;
}

// Prints what the build installs: help --man, help --bash-completion.
int print_made(CommandLine& line, std::string_view what, Globals& globals) {
    add_commands(line.program(), "", globals);
    if (what != "--man" && what != "--bash-completion") {
        print_error("snapvm help takes the name of a command, --man or --bash-completion");
        return kExitUsage;
    }
    const CommandInfo program = line.describe();
    print(stdout, "%s", (what == "--man" ? man_page(program, SNAPVM_VERSION) : bash_completion(program)).c_str());
    return 0;
}

int main(int argc, char** argv) {
    Globals globals;
    CommandLine line("snapvm", "A KVM mini-hypervisor with snapshots built in", SNAPVM_VERSION);
    line.program().option(
        "--run-dir DIR", globals.run_dir,
        "the folder in which machines are found (default: $SNAPVM_RUN_DIR, $XDG_RUNTIME_DIR/snapvm, or "
        "/run/snapvm for root)");
    line.program().flag("--json", globals.json, "print results as JSON");
    if (argc == 3 && std::string_view(argv[1]) == "help" && argv[2][0] == '-') {
        return print_made(line, argv[2], globals);
    }
    line.program().example("snapvm run --kernel builtin:ledger --name vm -d; snapvm help run");
    const std::vector<const char*> words = usual_words(argc, argv);
    add_commands(line.program(), words.size() > 1 ? words[1] : "", globals);
    const Result<Action> action = line.parse(static_cast<int>(words.size()), words.data());
    if (!action) {
        print_failure(action.error(),
                      globals.json || std::ranges::find(words, std::string_view("--json")) != words.end());
        return kExitUsage;
    }
    const Result<int> code = (*action)();
    if (!code) {
        print_failure(code.error(), globals.json);
        return exit_code_of(code.error());
    }
    return *code;
}

}  // namespace
}  // namespace snapvm::cli

int main(int argc, char** argv) {
    snapvm::mend_inheritance();
    snapvm::remember_arguments(argc, argv);
    // One heap for all threads. A heap for each thread would be mapped at its first allocation and
    // unmapped at its end, which delays the guest's page faults. No thread here allocates much.
    ::mallopt(M_ARENA_MAX, 1);  // NOLINT(concurrency-mt-unsafe): before any thread
    return snapvm::cli::main(argc, argv);
}
