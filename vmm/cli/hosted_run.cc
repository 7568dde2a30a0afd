// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/hosted_run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "vmm/api/machine_service.h"
#include "vmm/api/server.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/cli/control_console.h"
#include "vmm/cli/driver_hint.h"
#include "vmm/cli/run_dir.h"
#include "vmm/cli/serial_pump.h"
#include "vmm/crash/report.h"
#include "vmm/emulate/kernel_mode_repair.h"

namespace snapvm::cli {
namespace {

constexpr auto kFirstRunPatience = std::chrono::seconds(1);
// By then a booting guest has come to its drivers, where its kernel mode is emulated, too.
constexpr auto kDriverPatience = std::chrono::seconds(30);
constexpr auto kEmulatedDriverPatience = std::chrono::minutes(3);

std::uint64_t micros(Clock::duration duration) {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
}

std::string default_name() { return "vm-" + std::to_string(::getpid()); }

// What a run leaves on stderr when it did not simply end well. `json`: where a crash report goes as a line of JSON; null: it is text.
void explain(const Outcome& outcome, const std::string& name, std::FILE* json) {
    if (outcome.crash && json != nullptr) {
        std::fprintf(stderr, "snapvm: %s: %s\n", name.c_str(), outcome.crash->reason.c_str());
        std::fprintf(json, "%s\n", to_json(*outcome.crash).c_str());
        std::fflush(json);
    } else if (outcome.crash) {
        std::fprintf(stderr, "snapvm: %s: %s", name.c_str(), to_text(*outcome.crash).c_str());
    } else if (outcome.kind == Outcome::Kind::failed && outcome.error) {
        std::fprintf(stderr, "snapvm: %s: %s\n", name.c_str(), outcome.error->message().c_str());
    } else if (outcome.kind == Outcome::Kind::guest_panic) {
        std::fprintf(stderr, "snapvm: %s: the guest's kernel has panicked\n", name.c_str());
    } else if (outcome.kind == Outcome::Kind::timed_out) {
        std::fprintf(stderr, "snapvm: %s: ended by --timeout\n", name.c_str());
    }
}

Result<UniqueFd> open_log(const std::string& path) {
    // A log holds what the guest says: for nobody else's eyes.
    return open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
}

Status redirect(int fd, const std::string& path, int flags) {
    const UniqueFd file = TRY(open_file(path, flags, 0600));
    if (::dup2(file.get(), fd) < 0) {
        return fail(Error::system("dup2", path, errno));
    }
    return {};
}

// The memory that is a process' own share, in KiB (Documentation/filesystems/proc.rst, smaps_rollup).
std::uint64_t pss_kib(int pid) {
    const auto text = read_file("/proc/" + std::to_string(pid) + "/smaps_rollup", 65536);
    const std::size_t at = text ? text->find("\nPss:") : std::string::npos;
    return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 5, nullptr, 10);
}

// The message of a child to the process that started it, to its end.
std::string drain(int fd) {
    std::string text;
    std::array<char, 4096> chunk;
    while (true) {
        const ssize_t got = ::read(fd, chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return text;
        }
        text.append(chunk.data(), static_cast<std::size_t>(got));
        if (text.ends_with('\n')) {
            return text;
        }
    }
}

}  // namespace

std::string StartReport::json() const {
    nlohmann::ordered_json json = {{"name", name},        {"pid", pid},           {"api_socket", api_socket},
                                   {"map_us", map_us},    {"state_us", state_us}, {"first_run_us", first_run_us},
                                   {"total_us", total_us}};
    if (shared) {
        json["shared_runs"] = shared->runs;
        json["shared_pages"] = shared->pages;
    }
    if (!tsc.empty()) {
        json["tsc"] = tsc;
    }
    return json.dump();
}

Result<int> HostedRun::run_here(const std::function<void(const StartReport&)>& started) {
    const auto timeout = TRY(options.parsed_timeout());
    const LineTarget serial = TRY(options.serial_target());
    const LineTarget console = TRY(options.console_target());
    InputPump::block_signals();

    StartReport report;
    report.name = options.name.empty() ? default_name() : options.name;
    report.pid = ::getpid();
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    const NameClaim claim = TRY(NameClaim::take(dir, report.name));
    report.api_socket = claim.folder() + "/api.sock";
    UniqueFd serial_file;
    if (serial.kind == LineTarget::Kind::file) {
        serial_file = TRY(open_log(serial.path));
    }
    UniqueFd console_file;
    if (console.kind == LineTarget::Kind::file) {
        console_file = TRY(open_log(console.path));
    }

    const kvm::System system = TRY(kvm::System::open());
    BuiltMachine built = TRY(build(system, clone_));
    Machine& machine = *built.machine;
    const bool uses_console = console.kind != LineTarget::Kind::none || options.virtio_terminal;
    if (uses_console && !machine.config().devices.console) {
        return fail(ErrorKind::usage, "the machine in the snapshot has no virtio console", "leave --console out");
    }
    report.map_us = built.map_us;
    report.shared = built.shared;
    const Clock::time_point complete = Clock::now();
    report.state_us = micros(complete - start);

    api::MachineService service(machine, report.name, [dir](int pid) { return dir.machine_of(pid); });
    if (console.kind == LineTarget::Kind::stdio || options.virtio_terminal) {
        service.use_virtio_terminal();
    }
    // The guest starts first, the rest of the host's side comes up while it runs.
    if (!start_paused) {
        TRY(machine.resume());
    }
    // Input before the rest: a guest may be waiting for the byte that is on stdin already.
    std::optional<Line> typed;
    if (serial.kind == LineTarget::Kind::stdio || console.kind == LineTarget::Kind::stdio) {
        typed = serial.kind == LineTarget::Kind::stdio ? Line::serial : Line::console;
    }
    std::optional<InputPump> input(std::in_place, machine, typed);
    std::optional<OutputPump> output;
    if (serial.kind != LineTarget::Kind::none) {
        output.emplace(machine, Line::serial, serial_file.valid() ? serial_file.get() : STDOUT_FILENO);
    }
    std::optional<OutputPump> console_output;
    if (console.kind != LineTarget::Kind::none) {
        console_output.emplace(machine, Line::console, console_file.valid() ? console_file.get() : STDOUT_FILENO);
    }
    Result<std::unique_ptr<api::Server>> server = api::Server::start(report.api_socket, service);
    if (server && !options.api_socket.empty()) {
        if (::unlink(options.api_socket.c_str()) != 0 && errno != ENOENT) {
            server = fail(Error::system("unlink", options.api_socket, errno));
        } else if (::symlink(report.api_socket.c_str(), options.api_socket.c_str()) != 0) {
            server = fail(Error::system("symlink", options.api_socket, errno, "choose another --api-socket"));
        }
    }
    if (!server) {
        machine.end({.kind = Outcome::Kind::failed, .code = 0, .error = server.error()});
    }

    if (started && server) {
        if (!start_paused) {
            const auto first = machine.wait_first_run(Clock::now() + kFirstRunPatience);
            const Clock::time_point ran = first.value_or(Clock::now());
            report.first_run_us = micros(ran - complete);
            report.total_us = micros(ran - start);
            if (const std::optional<bool> set = machine.tsc_was_set()) {
                report.tsc = *set ? "set" : "host";
            }
        } else {
            report.total_us = report.state_us;
        }
        started(report);
    }
    DriverHint drivers(
        machine, [&](const std::string& hint) { std::fprintf(stderr, "snapvm: %s: %s\n", report.name.c_str(), hint.c_str()); });
    const auto patience = emulate::kernel_mode_is_emulated() ? kEmulatedDriverPatience : kDriverPatience;
    std::optional<Outcome> outcome = drivers.wait_ended(boots ? Clock::now() + patience : Clock::time_point::max(),
                                                        timeout ? start + *timeout : Clock::time_point::max());
    if (!outcome) {
        machine.end({.kind = Outcome::Kind::timed_out, .code = 124, .error = {}});
        outcome = machine.wait_ended(Clock::time_point::max());
    }
    service.run_ended();
    // The vCPUs stand still before the console is closed, so that nothing is written after its end.
    TRY(machine.pause());
    input.reset();
    machine.console().close();
    machine.virtio_console().close();
    output.reset();
    console_output.reset();
    if (server) {
        (*server)->stop();
    }
    if (!options.api_socket.empty()) {
        ::unlink(options.api_socket.c_str());
    }
    // As for the StartReport: stdout is the guest's while a line of its is there, and a detached machine's is nobody's.
    const bool on_stdio = serial.kind == LineTarget::Kind::stdio || console.kind == LineTarget::Kind::stdio;
    explain(*outcome, report.name, !globals.json ? nullptr : on_stdio || options.detach ? stderr : stdout);
    if (boots) {
        drivers.ended(*outcome);
    }
    return outcome->exit_code();
}

Result<StartReport> HostedRun::spawn(const std::string& name) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return fail(Error::system("pipe2", "", errno));
    }
    const UniqueFd reading(ends[0]);
    UniqueFd writing(ends[1]);
    const pid_t pid = ::fork();  // no thread has been started yet
    if (pid < 0) {
        return fail(Error::system("fork", "", errno, "raise the process limit (ulimit -u)"));
    }
    if (pid == 0) {
        ::setsid();
        options.name = name;
        options.detach = true;
        const auto tell = [&](const std::string& text) { (void)write_all(writing.get(), std::as_bytes(std::span(text)), "pipe"); };
        const auto body = [&]() -> Result<int> {
            for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
                TRY(redirect(fd, "/dev/null", O_RDWR));
            }
            return run_here([&](const StartReport& report) {
                // First the log: whoever is told may look into it.
                if (const auto dir = RunDir::find(globals.run_dir)) {
                    (void)redirect(STDERR_FILENO, dir->log_of(report.name), O_WRONLY | O_CREAT | O_APPEND);
                }
                tell(report.json() + "\n");
                writing.reset();
            });
        };
        const Result<int> code = body();
        if (!code && writing.valid()) {
            tell("!" + code.error().message() + "\n");
        }
        ::_exit(code ? *code : exit_code_of(code.error()));
    }
    writing.reset();
    const std::string answer = drain(reading.get());
    if (!answer.starts_with('{')) {
        int status = 0;
        ::waitpid(pid, &status, 0);
        const bool usage = WIFEXITED(status) && WEXITSTATUS(status) == kExitUsage;
        std::string why = answer.size() > 2 ? answer.substr(1, answer.size() - 2) : "the machine's process ended before it ran";
        return fail(usage ? ErrorKind::usage : ErrorKind::system, std::move(why));
    }
    const auto json = nlohmann::json::parse(answer, nullptr, /*allow_exceptions=*/false);
    StartReport report;
    report.name = json.value("name", "");
    report.pid = json.value("pid", 0);
    report.api_socket = json.value("api_socket", "");
    report.map_us = json.value("map_us", std::uint64_t{0});
    report.state_us = json.value("state_us", std::uint64_t{0});
    report.first_run_us = json.value("first_run_us", std::uint64_t{0});
    report.total_us = json.value("total_us", std::uint64_t{0});
    report.tsc = json.value("tsc", "");
    if (json.contains("shared_runs")) {
        report.shared = SharedMemory{json.value("shared_runs", std::uint64_t{0}), json.value("shared_pages", std::uint64_t{0})};
    }
    return report;
}

Result<int> HostedRun::run() {
    const LineTarget serial = TRY(options.serial_target());
    const LineTarget console = TRY(options.console_target());
    const bool on_stdio = serial.kind == LineTarget::Kind::stdio || console.kind == LineTarget::Kind::stdio;
    if (options.detach) {
        const StartReport report = TRY(spawn(options.name.empty() ? default_name() : options.name));
        std::printf("%s\n", globals.json ? report.json().c_str() : report.name.c_str());
        return 0;
    }
    if (on_stdio && ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0) {
        // On a terminal the machine gets a process of its own and this one is its console, so that Ctrl-a d can leave it running.
        if (console.kind == LineTarget::Kind::stdio) {
            options.console = "none";
            options.virtio_terminal = true;
        } else {
            options.serial = "none";
            options.serial_given = true;
        }
        const StartReport report = TRY(spawn(options.name.empty() ? default_name() : options.name));
        Result<int> code = attach_console(globals, report.name);
        if (!code) {
            // It may have ended before there was something to attach to.
            const RunDir dir = TRY(RunDir::find(globals.run_dir));
            int status = 0;
            if (dir.wait_gone(report.name, Clock::now() + kQuickAnswer) && ::waitpid(report.pid, &status, 0) == report.pid &&
                WIFEXITED(status)) {
                show_log(dir, report.name);
                return WEXITSTATUS(status);
            }
        }
        return code;
    }
    std::function<void(const StartReport&)> started;
    if (globals.json) {
        // stdout is the guest's while a line of its is there.
        std::FILE* to = on_stdio ? stderr : stdout;
        started = [to](const StartReport& report) {
            std::fprintf(to, "%s\n", report.json().c_str());
            std::fflush(to);
        };
    }
    return run_here(started);
}

Result<int> HostedRun::run_many(unsigned count) {
    HostOptions all = options;
    if (all.name.empty()) {
        all.name = default_name();
    }
    std::vector<std::uint64_t> totals;
    std::vector<StartReport> running;
    std::uint64_t pss = 0;
    for (clone_ = 0; clone_ < count; ++clone_) {
        start = Clock::now();
        options = all.for_clone(clone_);
        const std::string name = options.name != all.name ? options.name : all.name + "-" + std::to_string(clone_);
        const auto spawned = spawn(name);
        if (!spawned) {
            // All or none: whoever asked for 100 can do nothing with 57.
            for (const StartReport& one : running) {
                ::kill(one.pid, SIGTERM);
            }
            for (const StartReport& one : running) {
                (void)wait_gone(globals, one.name, kQuickAnswer);  // the error to tell of is the other
            }
            return fail(spawned.error());
        }
        const StartReport& report = running.emplace_back(*spawned);
        std::printf("%s\n", globals.json ? report.json().c_str() : report.name.c_str());
        totals.push_back(report.total_us);
        pss += pss_kib(report.pid);
    }
    std::ranges::sort(totals);
    const auto percentile = [&](std::size_t percent) { return totals[std::min(totals.size() - 1, totals.size() * percent / 100)]; };
    const nlohmann::ordered_json summary = {{"n", count},
                                            {"p50_us", percentile(50)},
                                            {"p90_us", percentile(90)},
                                            {"p99_us", percentile(99)},
                                            {"pss_kib_per_clone", pss / count}};
    std::fprintf(globals.json ? stdout : stderr, "%s\n", summary.dump().c_str());
    return 0;
}

}  // namespace snapvm::cli
