// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>
#include <string>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/host/inheritance.h"
#include "vmm/host/process_title.h"
#include "vmm/host/run_dir.h"

namespace snapvm {
namespace {

// The child sends one line: a start report, which is a JSON object, or one of these and a message.
constexpr char kUsage = '?';
constexpr char kFailed = '!';

// Returns whether a signal has come that ends a run, and that the caller holds back.
bool is_interrupted() {
    sigset_t pending;
    sigset_t both;
    const sigset_t ending = ending_signals();
    return ::sigpending(&pending) == 0 && ::sigandset(&both, &pending, &ending) == 0 && ::sigisemptyset(&both) == 0;
}

// Reads what the child says until it closes its end of the pipe. Stops when the caller is
// interrupted, since the child may wait for ever (a disk that does not answer).
std::string read_all(int fd) {
    constexpr int kSliceMs = 50;
    std::string text;
    std::array<char, 4096> chunk;
    while (!is_interrupted()) {
        pollfd entry{fd, POLLIN, 0};
        if (::poll(&entry, 1, kSliceMs) <= 0) {
            continue;
        }
        const ssize_t got = ::read(fd, chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return text.substr(0, text.size() - (text.ends_with('\n') ? 1 : 0));
        }
        text.append(chunk.data(), static_cast<std::size_t>(got));
    }
    return {};
}

void tell(UniqueFd& parent, std::string line) {
    line += '\n';
    (void)write_all(parent.get(), std::as_bytes(std::span(line)), "pipe");
    parent.reset();
}

Result<Outcome> run_detached(VmProcessOptions options, VmProcessEvents events, UniqueFd& parent) {
    ::setsid();
    set_process_title("snapvm: " + options.name);
    TRY(connect_to_null(STDIN_FILENO));
    TRY(connect_to_null(STDOUT_FILENO));
    options.stderr_to_log = true;
    events.started = [&](const StartReport& report) { tell(parent, report.json()); };
    VmProcess process(std::move(options));
    return process.run(events);
}

}  // namespace

Result<StartReport> spawn(VmProcessOptions options, VmProcessEvents events) {
    if (options.name.empty()) {
        options.name = VmProcess::default_name();  // of this process, which its user knows
    }
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return fail(Error::system("pipe2", "", errno));
    }
    const UniqueFd reading(ends[0]);
    UniqueFd writing(ends[1]);
    const RunDir dir = TRY(RunDir::find(options.run_dir));
    const std::string name = options.name;
    const pid_t pid = ::fork();  // no thread has been started yet
    if (pid < 0) {
        return fail(Error::system("fork", "", errno, "raise the process limit (ulimit -u)"));
    }
    if (pid == 0) {
        const Result<Outcome> outcome = run_detached(std::move(options), std::move(events), writing);
        if (!outcome && writing.valid()) {
            tell(writing, (outcome.error().kind() == ErrorKind::usage ? kUsage : kFailed) + outcome.error().message());
        }
        ::_exit(outcome ? outcome->exit_code() : 1);
    }
    writing.reset();
    const std::string line = read_all(reading.get());
    if (line.starts_with('{')) {
        return StartReport::parse(line);
    }
    const bool interrupted = is_interrupted();
    if (interrupted) {
        ::kill(pid, SIGKILL);
    }
    ::waitpid(pid, nullptr, 0);
    if (interrupted) {
        dir.remove_left_by(pid, name);
    }
    return fail(line.starts_with(kUsage) ? ErrorKind::usage : ErrorKind::system,
                line.size() > 1 ? line.substr(1) : "the machine's process ended before it ran");
}

}  // namespace snapvm
