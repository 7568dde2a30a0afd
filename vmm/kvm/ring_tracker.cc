// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/ring_tracker.h"

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm::kvm {

void RingTracker::take_entries() {
    for (VcpuFd& vcpu : vcpus_) {
        vcpu.harvest_dirty_ring([&](std::uint32_t slot, std::uint64_t page) {
            if (slot < pending_.blocks() && page < pending_.pages(slot)) {
                pending_.add(slot, page);
                unprotected_.add(slot, page);
            }
        });
    }
}

// All rings, since the reset is for all of them. The order is KVM's: take the entries, reset, and only then may anybody copy the pages,
// since until the reset they stay writable without being logged (traps.md: entries reused, or copied, before the reset).
Status RingTracker::harvest() {
    take_entries();
    TRY(quiet_ ? quiet_->run([this] { return reset_rings(); }) : Status{});
    unprotected_.clear();
    return {};
}

// Linux 6.16 and newer leave the reset when the thread has a signal pending, and forget to protect the pages they were at. A quiet thread gets
// none; but a stop of the process (SIGSTOP, a debugger, the cgroup's freezer) looks the same to the kernel. Which pages it forgot cannot
// be seen, so all of that harvest are reported from now on, whether written or not. To protect memory as a whole again would be
// exact; but it changes the slots, which nobody may while a vCPU waits in its fault (copy_before_write.h). Missed is a stop just behind the
// last entry.
Status RingTracker::reset_rings() {
    constexpr unsigned kMostTries = 1000;
    for (unsigned tries = 0; tries < kMostTries; ++tries) {
        TRY(vm_.reset_dirty_rings());
        if (std::ranges::none_of(vcpus_, &VcpuFd::dirty_ring_reset_fell_short)) {
            return {};
        }
        suspects_.add(unprotected_);
        suspicious_ = true;
    }
    return fail(ErrorKind::system, "KVM_RESET_DIRTY_RINGS is interrupted again and again", "use --dirty log");
}

Status RingTracker::start() {
    const std::lock_guard lock(mutex_);
    pending_.clear();
    unprotected_.clear();
    suspects_.clear();
    suspicious_ = false;
    quiet_ = TRY(QuietThread::start());
    return vm_.track_writes(true);
}

Status RingTracker::collect(DirtySet& into) {
    const std::lock_guard lock(mutex_);
    TRY(harvest());
    into.add(pending_);
    pending_.clear();
    if (suspicious_) {
        into.add(suspects_);
    }
    return {};
}

Status RingTracker::peek(DirtySet& into) {
    const std::lock_guard lock(mutex_);
    // Not reset yet: writes to these pages are not logged until the next collect, which has them among the pending ones and resets.
    take_entries();
    into.add(pending_);
    if (suspicious_) {
        into.add(suspects_);
    }
    return {};
}

void RingTracker::stop() {
    const std::lock_guard lock(mutex_);
    (void)vm_.track_writes(false);
    // Entries that nobody asked for any more must not fill the rings: with the tracking off no new ones come.
    (void)harvest();
    pending_.clear();
    quiet_.reset();
}

Status RingTracker::make_room() {
    const std::lock_guard lock(mutex_);
    return harvest();
}

}  // namespace snapvm::kvm
