// SPDX-License-Identifier: Apache-2.0
// Ends the process if its regular end takes too long.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace snapvm {

/// A limit on what the process does after its run: it waits for disks, writes output and joins
/// threads. A thread that waits for a disk that does not answer cannot be stopped, so only the end
/// of the process is sure. Any thread may call it.
class EndLimit {
public:
    /// Returns a number that changes as long as a snapshot is being written, or nothing if none is.
    using Progress = std::function<std::optional<std::uint64_t>()>;
    struct Times {
        std::chrono::milliseconds rest;      ///< for all that is no snapshot
        std::chrono::milliseconds snapshot;  ///< for a snapshot, without progress
    };

    EndLimit() = default;
    EndLimit(const EndLimit&) = delete;
    EndLimit& operator=(const EndLimit&) = delete;
    /// Lifts the limit.
    ~EndLimit();

    /// Starts a thread that ends the process with `exit_code`, and a line on stderr, if the object
    /// still exists when a time is over. Calls after the first do nothing. Without room for a
    /// thread there is no limit.
    void set(Times times, int exit_code, Progress progress);
    /// Calls `progress` no more. No snapshot is being written now.
    void forget_progress();

private:
    void watch(Times times, int exit_code);

    std::mutex mutex_;  // guards all below
    std::condition_variable over_changed_;
    bool over_ = false;
    Progress progress_;
    std::thread thread_;
};

}  // namespace snapvm
