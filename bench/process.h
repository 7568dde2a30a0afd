// SPDX-License-Identifier: Apache-2.0
// Programs started and talked to through pipes, with as little of ours in between as can be.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm::bench {

/// CLOCK_MONOTONIC, nanoseconds.
[[nodiscard]] std::uint64_t now_ns();

struct StartOptions {
    std::string input;          ///< in the child's stdin before it starts
    bool stderr_too = false;    ///< its stderr goes where its stdout goes, not where ours goes
    std::string stamp;          ///< an environment variable to hold the clock at the start, in ns
};

/// A child with pipes on its stdin and stdout. Ended and reaped when it goes.
class Process {
public:
    /// posix_spawn (a vfork underneath), not fork: copying this process' page tables is none of the child's time.
    static Result<Process> start(const std::vector<std::string>& command, const StartOptions& options = {});
    Process(Process&& other) noexcept;
    Process& operator=(Process&&) = delete;
    ~Process();

    /// Waits until `needle` has come out; the clock at that moment. Fails when the child ends first or nothing comes for a minute.
    Result<std::uint64_t> wait_for(const std::string& needle);
    /// The same, in microseconds since the start.
    Result<double> us_until(const std::string& needle);
    /// The next line, without its end; fails as wait_for does.
    Result<std::string> line();
    Status send(const std::string& text);
    /// Asks it to end (SIGTERM) and waits; kills it after five seconds.
    void end();
    /// Waits for it to end by itself and returns its exit status as of waitpid.
    Result<int> wait_end();
    /// All it has written so far that has been read here.
    [[nodiscard]] const std::string& output() const { return output_; }
    [[nodiscard]] pid_t pid() const { return pid_; }

private:
    Process() = default;
    Status read_more();

    pid_t pid_ = -1;
    UniqueFd in_;
    UniqueFd out_;
    std::uint64_t started_ns_ = 0;
    std::string name_;
    std::string output_;
    std::size_t seen_ = 0;
};

/// Runs a command to its end; fails when it does not end with 0. Its stdout.
Result<std::string> run_to_end(const std::vector<std::string>& command);

}  // namespace snapvm::bench
