// SPDX-License-Identifier: Apache-2.0
// One record of what is written to a machine's memory, for several who want to know: each has a set of its own.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/dirty_tracker.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// Merges a tracker's pages with the VMM's own marks and hands them to every subscriber. Tracks as long as somebody subscribes. One thread
/// at a time; subscriptions end before the feed does.
class DirtyFeed {
public:
    /// Pages written, and given up, since it was made or last cleared; `collect` brings it up to date.
    class Subscription {
    public:
        ~Subscription();
        Subscription(const Subscription&) = delete;
        Subscription& operator=(const Subscription&) = delete;
        [[nodiscard]] DirtySet& pages() { return pages_; }
        [[nodiscard]] const DirtySet& pages() const { return pages_; }

    private:
        friend class DirtyFeed;
        explicit Subscription(DirtyFeed& feed);
        DirtyFeed& feed_;
        DirtySet pages_;
    };

    DirtyFeed(GuestMemory& memory, std::unique_ptr<DirtyTracker> tracker) : memory_(memory), tracker_(std::move(tracker)) {}
    DirtyFeed(const DirtyFeed&) = delete;
    DirtyFeed& operator=(const DirtyFeed&) = delete;
    ~DirtyFeed() = default;

    [[nodiscard]] std::string_view tracker_name() const { return tracker_->name(); }
    [[nodiscard]] bool active() const { return !subscriptions_.empty(); }

    /// Switches the tracking on with the first. The pages must be armed before what they hold is read, unless they are already.
    Result<std::unique_ptr<Subscription>> subscribe();
    /// The same while somebody is subscribed, without a collect: what was written since the last one is in it, too.
    std::unique_ptr<Subscription> join() { return std::unique_ptr<Subscription>(new Subscription(*this)); }
    /// Makes sure that writes to these pages are reported from now on: nothing to do for pages armed earlier.
    Status arm(std::size_t block, std::uint64_t first, std::uint64_t count);
    /// Every page has been armed since tracking went on: `arm` has nothing more to do.
    void all_armed() { armed_ = true; }
    /// Brings every subscription up to date. What is read of those pages afterwards is new enough. All must have been armed. After an error
    /// every page counts as written.
    Status collect();
    /// Adds to `into` what the next collect would bring, and leaves it to that one: while the machine stands.
    Status peek(DirtySet& into);

private:
    void unsubscribe(const Subscription& subscription);

    GuestMemory& memory_;
    std::unique_ptr<DirtyTracker> tracker_;
    std::vector<Subscription*> subscriptions_;
    DirtySet fresh_;  // what one collect brings
    bool armed_ = false;
};

}  // namespace snapvm
