// SPDX-License-Identifier: Apache-2.0
// How long the scheduler lets a thread run before another has its turn. Source: sched_setattr(2), sched_runtime of SCHED_OTHER (Linux 6.12
// and newer; older ones take and ignore it).
#pragma once

namespace snapvm {

/// While it lives, the calling thread asks for short slices (0.1 ms): when it is woken it takes the place of a thread with longer ones at
/// once, instead of at a tick (up to 4 ms). It gets no more of the processor than others do. Best effort: where it is refused, or the
/// thread is not of SCHED_OTHER, all stays as it was. To be destroyed by the same thread.
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
