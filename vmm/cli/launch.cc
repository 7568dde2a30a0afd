// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/launch.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "vmm/base/fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/cli/control_console.h"
#include "vmm/cli/output.h"
#include "vmm/crash/report.h"
#include "vmm/host/inheritance.h"
#include "vmm/host/run_dir.h"
#include "vmm/host/spawn.h"
#include "vmm/host/vm_process.h"

namespace snapvm::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Prints why a run ended, unless it ended well. A crash report goes to `json` as a line of JSON; if
// `json` is null, it goes to stderr as text.
void explain(const Outcome& outcome, const std::string& name, std::FILE* json) {
    if (outcome.crash && json != nullptr) {
        print_error(name + ": " + outcome.crash->reason);
        print(json, "%s\n", to_json(*outcome.crash).c_str());
        std::fflush(json);
    } else if (outcome.crash) {
        print(stderr, "snapvm: %s: %s", name.c_str(), to_text(*outcome.crash).c_str());
    } else if (outcome.kind == Outcome::Kind::failed && outcome.error) {
        print_error(name + ": " + outcome.error->message());
    } else if (outcome.kind == Outcome::Kind::guest_panic) {
        print_error(name + ": the guest's kernel has panicked");
    } else if (outcome.kind == Outcome::Kind::timed_out) {
        print_error(name + ": ended by --timeout");
    }
}

// Returns the proportional share of memory of a process, in KiB
// (Documentation/filesystems/proc.rst, smaps_rollup).
std::uint64_t pss_kib(int pid) {
    const auto text = read_file("/proc/" + std::to_string(pid) + "/smaps_rollup", 65536);
    const std::size_t at = text ? text->find("\nPss:") : std::string::npos;
    return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 5, nullptr, 10);
}

// Keeps the run folder small for a user who starts machines by the thousand and removes none.
void forget_old_machines(const Globals& globals) {
    constexpr std::size_t kKept = 256;
    if (const auto dir = RunDir::find(globals.run_dir)) {
        dir->remove_oldest(kKept);
    }
}

void print_report(std::FILE* to, const StartReport& report) {
    print(to, "%s\n", report.json().c_str());
    std::fflush(to);
}

Result<VmProcessOptions> process_options(const Launch& wanted, unsigned clone) {
    const HostOptions& options = wanted.options;
    VmProcessOptions process{.run_dir = wanted.globals.run_dir,
                             .name = options.name,
                             .api_socket = options.api_socket,
                             .serial = TRY(options.serial_target()),
                             .console = TRY(options.console_target()),
                             .virtio_terminal = options.virtio_terminal,
                             .timeout = TRY(options.parsed_timeout()),
                             .setup = options.setup(),
                             .start = wanted.start,
                             .start_paused = wanted.start_paused,
                             .boots = wanted.boots};
    if (wanted.build) {
        process.build = [build = wanted.build, clone](const kvm::System& system) { return build(system, clone); };
    }
    return process;
}

bool on_stdio(const VmProcessOptions& process) {
    return process.serial.kind == LineTarget::Kind::stdio || process.console.kind == LineTarget::Kind::stdio;
}

// What the process prints on stderr, and a crash report with --json in `json`.
VmProcessEvents printed_events(std::FILE* json) {
    return {.hint = [](const std::string& name, const std::string& hint) { print_error(name + ": " + hint); },
            .ended = [json](const std::string& name, const Outcome& outcome) { explain(outcome, name, json); }};
}

// Starts the machine in a process of its own, which has no stdout.
Result<StartReport> detach(Launch wanted, unsigned clone = 0) {
    wanted.options.detach = true;
    return spawn(TRY(process_options(wanted, clone)), printed_events(wanted.globals.json ? stderr : nullptr));
}

// The machine gets a process of its own and this one is its console, so that Ctrl-a d can detach
// and leave it running.
Result<int> launch_on_terminal(Launch wanted, bool virtio_console) {
    if (virtio_console) {
        wanted.options.console = "none";
        wanted.options.virtio_terminal = true;
    } else {
        wanted.options.serial = "none";
        wanted.options.serial_given = true;
    }
    const StartReport report = TRY(detach(wanted));
    Result<int> code = attach_console(wanted.globals, report.name);
    const RunDir dir = TRY(RunDir::find(wanted.globals.run_dir));
    if (!code) {
        // The run may have ended before the console was open.
        int status = 0;
        if (dir.wait_gone(report.name, Clock::now() + kQuickAnswer) &&
            ::waitpid(report.pid, &status, 0) == report.pid && WIFEXITED(status)) {
            show_log(dir, report.name);
            code = WEXITSTATUS(status);
        }
    }
    (void)dir.remove(report.name);  // the user has seen how it ended; one that was detached from runs, and stays
    return code;
}

Result<int> launch_here(const Launch& wanted, VmProcessOptions options) {
    // stdout belongs to the guest if one of its lines is on it.
    std::FILE* const reports = on_stdio(options) ? stderr : stdout;
    VmProcessEvents events = printed_events(wanted.globals.json ? reports : nullptr);
    if (wanted.globals.json) {
        events.started = [reports](const StartReport& report) { print_report(reports, report); };
    }
    VmProcess process(std::move(options));
    return TRY(process.run(events)).exit_code();
}

// Keeps the signals that end a run (inheritance.h) until they are asked for, so that what has begun
// can be undone.
class HeldSignals {
public:
    HeldSignals() : held_(ending_signals()) { ::pthread_sigmask(SIG_BLOCK, &held_, &before_); }
    HeldSignals(const HeldSignals&) = delete;
    HeldSignals& operator=(const HeldSignals&) = delete;
    ~HeldSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

    /// Returns the number of a signal that has come, or 0.
    [[nodiscard]] int take() const {
        const timespec now{};
        return std::max(::sigtimedwait(&held_, nullptr, &now), 0);
    }

private:
    sigset_t held_;
    sigset_t before_{};
};

// All or none: a caller that asked for 100 machines cannot use 57. Leaves nothing of them behind.
void end_all(const Globals& globals, const std::vector<StartReport>& running) {
    for (const StartReport& one : running) {
        ::kill(one.pid, SIGTERM);
    }
    const auto dir = RunDir::find(globals.run_dir);
    const Clock::time_point deadline = Clock::now() + kQuickAnswer;
    for (const StartReport& one : running) {
        // The first error of the launch is the one to report.
        if (dir && !dir->wait_gone(one.name, deadline)) {
            ::kill(one.pid, SIGKILL);  // a child of this process, so the number is its own
            (void)dir->wait_gone(one.name, Clock::now() + kQuickAnswer);
        }
        (void)(dir ? dir->remove(one.name) : Status());
    }
}

void print_summary(const Globals& globals, const std::vector<StartReport>& running, std::uint64_t pss) {
    std::vector<std::uint64_t> totals;
    totals.reserve(running.size());
    for (const StartReport& one : running) {
        totals.push_back(one.total_us);
    }
    std::ranges::sort(totals);
    const auto percentile = [&](std::size_t percent) {
        return totals[std::min(totals.size() - 1, totals.size() * percent / 100)];
    };
    const nlohmann::ordered_json summary = {{"n", running.size()},
                                            {"p50_us", percentile(50)},
                                            {"p90_us", percentile(90)},
                                            {"p99_us", percentile(99)},
                                            {"pss_kib_per_clone", pss / running.size()}};
    print(globals.json ? stdout : stderr, "%s\n", json_text(summary).c_str());
}

}  // namespace

Result<int> launch(Launch wanted) {
    VmProcessOptions options = TRY(process_options(wanted, 0));
    if (wanted.options.detach) {
        const StartReport report = TRY(detach(wanted));
        print(stdout, "%s\n", wanted.globals.json ? report.json().c_str() : report.name.c_str());
        std::fflush(stdout);
        forget_old_machines(wanted.globals);
        return 0;
    }
    if (on_stdio(options) && wanted.build && ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0) {
        return launch_on_terminal(std::move(wanted), options.console.kind == LineTarget::Kind::stdio);
    }
    return launch_here(wanted, std::move(options));
}

Result<int> launch_many(Launch wanted, unsigned count) {
    HostOptions all = wanted.options;
    if (all.name.empty()) {
        all.name = VmProcess::default_name();
    }
    std::vector<StartReport> running;
    std::uint64_t pss = 0;
    const HeldSignals signals;
    ::signal(SIGPIPE, SIG_IGN);  // a reader of the names that is gone ends no machine, and this not in the middle
    for (unsigned clone = 0; clone < count; ++clone) {
        wanted.start = Clock::now();
        wanted.options = all.for_clone(clone);
        if (wanted.options.name == all.name) {
            wanted.options.name += "-" + std::to_string(clone);
        }
        const auto spawned = detach(wanted, clone);
        if (spawned) {
            running.push_back(*spawned);
            print(stdout, "%s\n", wanted.globals.json ? spawned->json().c_str() : spawned->name.c_str());
            std::fflush(stdout);
            pss += pss_kib(spawned->pid);
        }
        const int signal = signals.take();
        if (spawned && signal == 0) {
            continue;
        }
        end_all(wanted.globals, running);
        if (signal == 0) {
            return fail(spawned.error());
        }
        print_failure(Error(ErrorKind::cancelled,
                            "interrupted: the " + count_text(running.size(), "machine") + " that ran had to end"),
                      wanted.globals.json);
        return 128 + signal;
    }
    print_summary(wanted.globals, running, pss);
    forget_old_machines(wanted.globals);
    return 0;
}

}  // namespace snapvm::cli
