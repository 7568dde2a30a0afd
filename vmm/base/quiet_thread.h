// SPDX-License-Identifier: Apache-2.0
// For system calls that end early when the thread that makes them has something to attend to.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "vmm/base/error.h"

namespace snapvm {

/// A thread to which nothing comes but what `run` gives it: every signal is blocked, and it has never used an io_uring, whose work would
/// interrupt it as a signal does (TWA_SIGNAL). What stops the whole process (SIGSTOP, a debugger, the cgroup's freezer) stops it, too, and
/// interrupts calls. Calls of `run` come one at a time.
class QuietThread {
public:
    static Result<std::unique_ptr<QuietThread>> start();
    QuietThread(const QuietThread&) = delete;
    QuietThread& operator=(const QuietThread&) = delete;
    ~QuietThread();

    /// Returns when it is done.
    Status run(std::function<Status()> what);

private:
    QuietThread() = default;
    void work();

    std::mutex mutex_;  // guards the three below
    std::condition_variable changed_;
    std::function<Status()> what_;  ///< empty: done
    Status result_;
    bool over_ = false;
    std::thread thread_;
};

}  // namespace snapvm
