// SPDX-License-Identifier: Apache-2.0
// One record of the writes to a machine's memory, for several subscribers. Each subscriber has its
// own set of pages.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/dirty_tracker.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// Merges a tracker's pages with the VMM's own marks and adds them to every subscription. Tracking
/// is on while a subscription exists. One thread uses it at a time. Subscriptions end before the
/// feed does.
class DirtyFeed {
public:
    /// The pages that were written or given up since the subscription began, or since its set was
    /// last cleared. `collect` brings the set up to date.
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

    DirtyFeed(GuestMemory& memory, std::unique_ptr<DirtyTracker> tracker)
        : memory_(memory), tracker_(std::move(tracker)) {}
    DirtyFeed(const DirtyFeed&) = delete;
    DirtyFeed& operator=(const DirtyFeed&) = delete;
    ~DirtyFeed() = default;

    [[nodiscard]] std::string_view tracker_name() const { return tracker_->name(); }
    [[nodiscard]] bool active() const { return !subscriptions_.empty(); }

    /// Makes a subscription; the first one switches tracking on. After that every page must be
    /// armed before its contents are read; for later subscriptions the pages are armed already.
    /// Fails if the tracker fails.
    Result<std::unique_ptr<Subscription>> subscribe();
    /// Makes a subscription without a collect. At least one other must exist. The new set also gets
    /// the pages that were written since the last collect.
    std::unique_ptr<Subscription> join() { return std::unique_ptr<Subscription>(new Subscription(*this)); }
    /// Makes the tracker report writes to these pages from now on. Does nothing if `all_armed` was
    /// called.
    Status arm(std::size_t block, std::uint64_t first, std::uint64_t count);
    /// Declares that every page has been armed since tracking was switched on, so that `arm` does
    /// nothing any more.
    void all_armed() { armed_ = true; }
    /// Brings every subscription up to date. Contents read after it returns are new enough for the
    /// pages it reported. All pages must have been armed. If it fails, every page counts as
    /// written.
    Status collect();
    /// Adds to `into` what the next collect would report, and leaves it for that collect. The
    /// machine must be paused.
    Status peek(DirtySet& into);

private:
    void unsubscribe(const Subscription& subscription);

    GuestMemory& memory_;
    std::unique_ptr<DirtyTracker> tracker_;
    std::vector<Subscription*> subscriptions_;
    DirtySet fresh_;  // the pages of one collect
    bool armed_ = false;
};

}  // namespace snapvm
