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

// Harvests all rings, since one reset applies to all. KVM requires the order: take the entries,
// reset, and only then copy the pages. Until the reset they stay writable without being logged, so
// a write after an earlier copy would be lost.
Status RingTracker::harvest() {
    take_entries();
    TRY(quiet_ ? quiet_->run([this] { return reset_rings(); }) : Status{});
    unprotected_.clear();
    return {};
}

// Linux 6.16 and newer end the reset early if the thread has a signal pending, and forget to
// protect the pages they were at. A quiet thread gets no signals, but a stop of the process
// (SIGSTOP, a debugger, the cgroup freezer) has the same effect. The forgotten pages cannot be
// identified, so each collect reports all pages of that harvest from now on, written or not.
// Protecting all memory again would be exact, but it changes the slots, which must not happen while
// a vCPU waits in a fault (copy_before_write.h). A stop just after the last entry is not detected.
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
    // There is no reset, so writes to these pages are not logged until the next collect. It reports
    // the pages, which are pending, and resets.
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
    // Empties the rings, so that old entries do not fill them. No new ones come while tracking is
    // off.
    (void)harvest();
    pending_.clear();
    quiet_.reset();
}

Status RingTracker::make_room() {
    const std::lock_guard lock(mutex_);
    return harvest();
}

}  // namespace snapvm::kvm
