// SPDX-License-Identifier: Apache-2.0
// Lets a machine run for a part of the time only, so that copying catches up with what it writes.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "snapshot/source.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Stops and lets go of the machine once in every 10 ms, on a thread of its own, until it is destroyed; then the machine runs freely.
/// Nobody else may freeze the machine meanwhile.
class Throttle {
public:
    /// `source` must outlive it.
    static Result<std::unique_ptr<Throttle>> start(SnapshotSource& source);
    Throttle(const Throttle&) = delete;
    Throttle& operator=(const Throttle&) = delete;
    ~Throttle();

    /// From 30 % of the time to 10, 3 and 1; false where that was all.
    bool tighten();

private:
    explicit Throttle(SnapshotSource& source) : source_(source) {}
    Status go_on();
    void work();

    SnapshotSource& source_;
    std::mutex mutex_;  // guards the two below
    std::condition_variable changed_;
    unsigned level_ = 0;
    bool over_ = false;
    std::thread thread_;
};

}  // namespace snapvm
