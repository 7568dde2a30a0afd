// SPDX-License-Identifier: Apache-2.0
// Starts programs and talks to them through pipes, with little code in between.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm::bench {

/// Returns CLOCK_MONOTONIC in nanoseconds.
[[nodiscard]] std::uint64_t now_ns();

struct StartOptions {
    std::string input;  ///< written into the child's stdin before it starts
    bool stderr_too = false;  ///< sends the child's stderr where its stdout goes, not to our stderr
    std::string stamp;  ///< an environment variable that gets the start time, in ns
};

/// A child with pipes on its stdin and stdout. The destructor ends and reaps it.
class Process {
public:
    /// Starts a child by posix_spawn (which uses vfork), not fork: copying this process' page
    /// tables must not count as the child's time.
    static Result<Process> start(const std::vector<std::string>& command, const StartOptions& options = {});
    Process(Process&& other) noexcept;
    Process& operator=(Process&&) = delete;
    ~Process();

    /// Waits until `needle` has come out, and returns the clock at that moment. Fails if the child
    /// ends first or nothing comes for a minute.
    Result<std::uint64_t> wait_for(const std::string& needle);
    /// Does the same as wait_for(), and returns microseconds since the start.
    Result<double> us_until(const std::string& needle);
    /// Returns the next line without its newline. Fails as wait_for() does.
    Result<std::string> line();
    Status send(const std::string& text);
    /// Asks the child to end (SIGTERM) and waits. Kills it after five seconds.
    void end();
    /// Waits until the child ends by itself, and returns its status as waitpid gives it.
    Result<int> wait_end();
    /// Returns all output that has been read so far.
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

/// Runs a command to its end and returns its stdout. Fails if its exit code is not 0.
Result<std::string> run_to_end(const std::vector<std::string>& command);

}  // namespace snapvm::bench
