// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/spawn.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>
#include <string>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// The child sends one line: a start report, which is a JSON object, or one of these and a message.
constexpr char kUsage = '?';
constexpr char kFailed = '!';

Status leave_stdio() {
    const UniqueFd null = TRY(open_file("/dev/null", O_RDWR));
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
        if (::dup2(null.get(), fd) < 0) {
            return fail(Error::system("dup2", "/dev/null", errno));
        }
    }
    return {};
}

// Reads the child's line, or what there is of it at the end of the pipe.
std::string read_line(int fd) {
    std::string text;
    std::array<char, 4096> chunk;
    while (!text.ends_with('\n')) {
        const ssize_t got = ::read(fd, chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return text;
        }
        text.append(chunk.data(), static_cast<std::size_t>(got));
    }
    text.pop_back();
    return text;
}

void tell(UniqueFd& parent, std::string line) {
    line += '\n';
    (void)write_all(parent.get(), std::as_bytes(std::span(line)), "pipe");
    parent.reset();
}

Result<Outcome> run_detached(VmProcessOptions options, VmProcessEvents events, UniqueFd& parent) {
    ::setsid();
    TRY(leave_stdio());
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
    const std::string line = read_line(reading.get());
    if (line.starts_with('{')) {
        return StartReport::parse(line);
    }
    ::waitpid(pid, nullptr, 0);
    return fail(line.starts_with(kUsage) ? ErrorKind::usage : ErrorKind::system,
                line.size() > 1 ? line.substr(1) : "the machine's process ended before it ran");
}

}  // namespace snapvm
