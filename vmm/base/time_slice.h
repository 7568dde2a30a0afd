// SPDX-License-Identifier: Apache-2.0
// Sets how long the scheduler lets a thread run before it picks another. Source: sched_setattr(2),
// sched_runtime of SCHED_OTHER (effective from Linux 6.12; older kernels accept and ignore it).
#pragma once

namespace snapvm {

/// Requests slices of 0.1 ms for the calling thread during the object's lifetime. A woken thread
/// with a short slice preempts one with a longer slice at once, instead of at the next tick (up to
/// 4 ms). Its share of the processor stays the same. Best effort: if the kernel refuses, or the
/// thread is not SCHED_OTHER, nothing changes. The thread that constructs the object destroys it.
class ShortSlice {
public:
    ShortSlice();
    ~ShortSlice();
    ShortSlice(const ShortSlice&) = delete;
    ShortSlice& operator=(const ShortSlice&) = delete;

private:
    bool set_ = false;
};

}  // namespace snapvm
