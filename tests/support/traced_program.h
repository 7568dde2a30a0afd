// SPDX-License-Identifier: Apache-2.0
// Runs a program under ptrace(2) and keeps its system calls that name a path.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace snapvm::test {

/// A system call with a path, or with the address of a unix socket.
struct PathCall {
    std::string_view call;  ///< the system call's name
    std::string path;
    bool by_descriptor = false;   ///< the path starts from a descriptor, not from the root or the current directory
    bool after_threads = false;  ///< the program had started a thread
};

/// A program that runs, traced, without stdin and with its output in a file.
class TracedProgram {
public:
    /// Runs `words`; words[0] is a path. `output` is the file of its stdout and stderr.
    TracedProgram(std::vector<std::string> words, std::string output);
    /// Kills the program if it still runs.
    ~TracedProgram();
    TracedProgram(const TracedProgram&) = delete;
    TracedProgram& operator=(const TracedProgram&) = delete;

    /// Waits for the program's end. Returns its exit code, or -1 if a signal ended it.
    int wait();
    /// Returns the calls so far.
    [[nodiscard]] std::vector<PathCall> calls() const;

private:
    void trace();
    void stopped(pid_t thread, int status);
    void note(pid_t thread);

    std::vector<std::string> words_;
    const std::string output_;
    std::atomic<pid_t> program_ = 0;  ///< -1 if it could not be started
    std::atomic<bool> over_ = false;
    int exit_code_ = -1;
    // Of the tracer's thread: the program's threads that have stopped once, and whether there was a
    // second one.
    std::vector<pid_t> seen_;
    bool threads_ = false;
    mutable std::mutex mutex_;  ///< guards calls_
    std::vector<PathCall> calls_;
    std::thread tracer_;  ///< the one thread that may make ptrace calls
};

}  // namespace snapvm::test
