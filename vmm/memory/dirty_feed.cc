// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/dirty_feed.h"

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm {

DirtyFeed::Subscription::Subscription(DirtyFeed& feed) : feed_(feed), pages_(feed.memory_.blocks()) {
    feed_.subscriptions_.push_back(this);
}

DirtyFeed::Subscription::~Subscription() { feed_.unsubscribe(*this); }

Result<std::unique_ptr<DirtyFeed::Subscription>> DirtyFeed::subscribe() {
    if (subscriptions_.empty()) {
        fresh_ = DirtySet(memory_.blocks());
        if (Status started = tracker_->start(); !started) {
            tracker_->stop();  // it may be on for a part of memory
            return fail(std::move(started).error());
        }
        armed_ = false;
        // Drops the marks from before the subscription. Later marks come with the next collect.
        for (std::size_t i = 0; i < fresh_.blocks(); ++i) {
            memory_.blocks()[i].marks().collect(fresh_.words(i));
        }
        fresh_.clear();
    } else {
        TRY(collect());
    }
    return std::unique_ptr<Subscription>(new Subscription(*this));
}

void DirtyFeed::unsubscribe(const Subscription& subscription) {
    std::erase(subscriptions_, &subscription);
    if (subscriptions_.empty()) {
        tracker_->stop();
    }
}

Status DirtyFeed::arm(std::size_t block, std::uint64_t first, std::uint64_t count) {
    return armed_ ? Status{} : tracker_->arm(block, first, count);
}

Status DirtyFeed::collect() {
    fresh_.clear();
    Status collected = tracker_->collect(fresh_);
    if (!collected) {
        fresh_.add_all();  // the tracker has already cleared what it took before it failed, and has it nowhere else
    }
    for (std::size_t i = 0; i < fresh_.blocks(); ++i) {
        memory_.blocks()[i].marks().collect(fresh_.words(i));
    }
    for (Subscription* subscription : subscriptions_) {
        subscription->pages_.add(fresh_);
    }
    return collected;
}

Status DirtyFeed::peek(DirtySet& into) {
    TRY(tracker_->peek(into));
    for (std::size_t i = 0; i < into.blocks(); ++i) {
        memory_.blocks()[i].marks().peek(into.words(i));
    }
    return {};
}

}  // namespace snapvm
