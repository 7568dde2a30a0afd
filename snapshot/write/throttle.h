// SPDX-License-Identifier: Apache-2.0
// Lets a machine run for part of the time only, so that copying catches up with its writes.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "snapshot/source/source.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Freezes and thaws the machine once in every 10 ms, on a thread of its own, until it is
/// destroyed. Then the machine runs freely. No other thread may freeze the machine meanwhile.
class Throttle {
public:
    /// Starts at 30 % of the time. `source` must outlive it.
    static Result<std::unique_ptr<Throttle>> start(SnapshotSource& source);
    Throttle(const Throttle&) = delete;
    Throttle& operator=(const Throttle&) = delete;
    ~Throttle();

    /// Reduces the time that the machine runs from 30 % to 10, 3 and 1 %. Returns false if it is 1
    /// % already.
    bool tighten();

private:
    explicit Throttle(SnapshotSource& source) : source_(source) {}
    Status check_cancelled();
    void work();

    SnapshotSource& source_;
    std::mutex mutex_;  // guards the two below
    std::condition_variable changed_;
    unsigned level_ = 0;
    bool over_ = false;
    std::thread thread_;
};

}  // namespace snapvm
