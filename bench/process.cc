// SPDX-License-Identifier: Apache-2.0
#include "bench/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>
#include <string_view>

#include "vmm/base/try.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX has no header for it

namespace snapvm::bench {
namespace {

constexpr int kPatienceMs = 60'000;
constexpr int kEndTries = 500;

struct Pipe {
    UniqueFd reading;
    UniqueFd writing;

    static Result<Pipe> make() {
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
            return fail(Error::system("pipe2", "", errno));
        }
        return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
    }
};

}  // namespace

std::uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

Result<Process> Process::start(const std::vector<std::string>& command, const StartOptions& options) {
    Process child;
    Pipe to = TRY(Pipe::make());
    Pipe from = TRY(Pipe::make());
    child.name_ = command.front();
    std::vector<char*> arguments;
    for (const std::string& word : command) {
        arguments.push_back(const_cast<char*>(word.c_str()));
    }
    arguments.push_back(nullptr);
    std::vector<char*> variables;
    for (char** variable = environ; *variable != nullptr; ++variable) {
        variables.push_back(*variable);
    }
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, to.reading.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, from.writing.get(), STDOUT_FILENO);
    if (options.stderr_too) {
        ::posix_spawn_file_actions_adddup2(&actions, from.writing.get(), STDERR_FILENO);
    }
    if (!options.input.empty()) {
        TRY(write_all(to.writing.get(), std::as_bytes(std::span(options.input)), "stdin of " + child.name_));
    }
    child.started_ns_ = now_ns();
    std::string stamp = options.stamp + "=" + std::to_string(child.started_ns_);
    if (!options.stamp.empty()) {
        variables.push_back(stamp.data());
    }
    variables.push_back(nullptr);
    const int error =
        ::posix_spawn(&child.pid_, command.front().c_str(), &actions, nullptr, arguments.data(), variables.data());
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        child.pid_ = -1;
        return fail(Error::system("posix_spawn", child.name_, error, "build it first: ./dev build"));
    }
    child.in_ = std::move(to.writing);
    child.out_ = std::move(from.reading);
    return child;
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      in_(std::move(other.in_)),
      out_(std::move(other.out_)),
      started_ns_(other.started_ns_),
      name_(std::move(other.name_)),
      output_(std::move(other.output_)),
      seen_(other.seen_) {}

Process::~Process() { end(); }

Status Process::read_more() {
    pollfd ready{out_.get(), POLLIN, 0};
    const int count = ::poll(&ready, 1, kPatienceMs);
    if (count == 0) {
        return fail(ErrorKind::system, name_ + ": there is no output for a minute");
    }
    std::array<char, 65536> chunk;
    const ssize_t got = ::read(out_.get(), chunk.data(), chunk.size());
    if (got <= 0) {
        return fail(ErrorKind::system,
                    name_ + " ended before the expected output; its output: " + output_.substr(0, 200));
    }
    output_.append(chunk.data(), static_cast<std::size_t>(got));
    return {};
}

Result<std::uint64_t> Process::wait_for(const std::string& needle) {
    while (true) {
        const std::size_t at = output_.find(needle, seen_);
        if (at != std::string::npos) {
            const std::uint64_t now = now_ns();
            seen_ = at + needle.size();
            return now;
        }
        TRY(read_more());
    }
}

Result<double> Process::us_until(const std::string& needle) {
    return static_cast<double>(TRY(wait_for(needle)) - started_ns_) / 1e3;
}

Result<std::string> Process::line() {
    const std::size_t from = seen_;
    TRY(wait_for("\n"));
    return output_.substr(from, seen_ - from - 1);
}

Status Process::send(const std::string& text) {
    return write_all(in_.get(), std::as_bytes(std::span(text)), "stdin of " + name_);
}

void Process::end() {
    if (pid_ < 0) {
        return;
    }
    ::kill(pid_, SIGTERM);
    // The child must not block on a full output pipe while it ends.
    out_.reset();
    for (int i = 0; i < kEndTries; ++i) {
        if (::waitpid(pid_, nullptr, WNOHANG) != 0) {
            pid_ = -1;
            return;
        }
        ::usleep(10'000);
    }
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
}

Result<int> Process::wait_end() {
    in_.reset();
    while (read_more()) {
    }
    int status = 0;
    if (::waitpid(pid_, &status, 0) < 0) {
        return fail(Error::system("waitpid", name_, errno));
    }
    pid_ = -1;
    return status;
}

Result<std::string> run_to_end(const std::vector<std::string>& command) {
    Process process = TRY(Process::start(command));
    const int status = TRY(process.wait_end());
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::string all;
        for (const std::string& word : command) {
            all += word + " ";
        }
        return fail(ErrorKind::system, all + "failed (status " + std::to_string(status) + ")");
    }
    return process.output();
}

}  // namespace snapvm::bench
