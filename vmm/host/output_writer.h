// SPDX-License-Identifier: Apache-2.0
// Writes a line's output to a descriptor, and can be told to stop waiting for its reader.
#pragma once

#include <atomic>
#include <chrono>
#include <string_view>

namespace snapvm {

/// The sink of an OutputPump. One thread writes; any thread may set the deadline.
class OutputWriter {
public:
    using Clock = std::chrono::steady_clock;

    /// `fd` must stay open as long as the writer.
    explicit OutputWriter(int fd) : fd_(fd) {}

    /// Writes all bytes, and waits while a pipe, a socket or a terminal has no room. Returns
    /// false if the descriptor takes no more (its reader is gone, the disk or the file is full),
    /// or has no room until the deadline.
    bool write(std::string_view bytes);
    /// Sets the deadline, also for a write that waits. There is none at first.
    void give_up_at(Clock::time_point deadline) { deadline_ = deadline.time_since_epoch().count(); }

private:
    [[nodiscard]] bool wait_for_room() const;

    int fd_;
    std::atomic<Clock::rep> deadline_ = Clock::time_point::max().time_since_epoch().count();
};

}  // namespace snapvm
