// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/ring_tracker.h"

#include "vmm/base/try.h"

namespace snapvm::kvm {

void RingTracker::take_entries() {
    for (VcpuFd& vcpu : vcpus_) {
        vcpu.harvest_dirty_ring([&](std::uint32_t slot, std::uint64_t page) {
            if (slot < pending_.blocks() && page < pending_.pages(slot)) {
                pending_.add(slot, page);
            }
        });
    }
}

// All rings, since the reset is for all of them. The order is KVM's: take the entries, reset, and only then may anybody copy the pages,
// since until the reset they stay writable without being logged (traps.md: entries reused, or copied, before the reset).
Status RingTracker::harvest() {
    take_entries();
    return quiet_ ? quiet_->run([this] { return vm_.reset_dirty_rings(); }) : Status{};
}

Status RingTracker::start() {
    const std::lock_guard lock(mutex_);
    pending_.clear();
    quiet_ = TRY(QuietThread::start());
    return vm_.track_writes(true);
}

Status RingTracker::collect(DirtySet& into) {
    const std::lock_guard lock(mutex_);
    TRY(harvest());
    into.add(pending_);
    pending_.clear();
    return {};
}

Status RingTracker::peek(DirtySet& into) {
    const std::lock_guard lock(mutex_);
    // Not reset yet: writes to these pages are not logged until the next collect, which has them among the pending ones and resets.
    take_entries();
    into.add(pending_);
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
