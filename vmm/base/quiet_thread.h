// SPDX-License-Identifier: Apache-2.0
// A thread for system calls that return early if a signal or task work is pending for their thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "vmm/base/error.h"

namespace snapvm {

/// Runs calls on a thread that nothing interrupts. The thread blocks every signal and never uses an
/// io_uring, whose task work interrupts a call as a signal does (TWA_SIGNAL). Whatever stops the
/// whole process (SIGSTOP, a debugger, the cgroup freezer) still stops the thread and interrupts
/// its calls. One thread at a time calls `run`.
class QuietThread {
public:
    static Result<std::unique_ptr<QuietThread>> start();
    QuietThread(const QuietThread&) = delete;
    QuietThread& operator=(const QuietThread&) = delete;
    ~QuietThread();

    /// Runs `what` on the thread, waits until it returns, and returns its result.
    Status run(std::function<Status()> what);

private:
    QuietThread() = default;
    void work();

    std::mutex mutex_;  // guards all below but thread_; held while what_ runs
    std::condition_variable changed_;
    std::function<Status()> what_;  ///< the call to make; empty when it is done
    Status result_;
    bool over_ = false;
    std::thread thread_;
};

}  // namespace snapvm
