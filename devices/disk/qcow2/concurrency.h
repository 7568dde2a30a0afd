// SPDX-License-Identifier: Apache-2.0
// How the calls on one image run beside each other: tasks of one request, locks of clusters, and
// which calls are under way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <utility>

#include "devices/disk/io/task.h"

namespace snapvm::disk::qcow2 {

/// Tasks that run together. wait() must be awaited before the end of a group that has tasks.
class TaskGroup {
public:
    explicit TaskGroup(std::size_t most) : most_(most) {}
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    [[nodiscard]] bool failed() const { return !status_.has_value(); }
    /// Starts a task when fewer than the most are running.
    Task<> add(Task<Status> task) {
        while (running_ >= most_) {
            co_await ended_.wait();
        }
        ++running_;
        start(std::move(task), [this](Status status) { end(std::move(status)); });
    }
    /// Waits for all, and returns the first error.
    Task<Status> wait() {
        while (running_ > 0) {
            co_await ended_.wait();
        }
        co_return std::move(status_);
    }

private:
    void end(Status status) {
        if (!status && status_) {
            status_ = std::move(status);
        }
        --running_;
        ended_.wake_one();  // the last use: the group may be gone afterwards
    }
    std::size_t most_;
    std::size_t running_ = 0;
    Status status_;
    WaitList ended_;
};

/// Locks of ranges of numbers. A task has at most one at a time.
class RangeLock {
    struct Range {
        std::uint64_t first;
        std::uint64_t end;
    };

public:
    class [[nodiscard]] Guard {
    public:
        Guard(RangeLock& lock, std::list<Range>::iterator range) : lock_(&lock), range_(range) {}
        Guard(Guard&& other) noexcept : lock_(std::exchange(other.lock_, nullptr)), range_(other.range_) {}
        Guard& operator=(Guard&&) = delete;
        ~Guard() {
            if (lock_ != nullptr) {
                lock_->held_.erase(range_);
                lock_->freed_.wake_all();
            }
        }

    private:
        RangeLock* lock_;
        std::list<Range>::iterator range_;
    };
    Task<Guard> lock(std::uint64_t first, std::uint64_t count) {
        while (overlaps(first, first + count)) {
            co_await freed_.wait();
        }
        held_.push_back({first, first + count});
        co_return Guard(*this, std::prev(held_.end()));
    }

private:
    [[nodiscard]] bool overlaps(std::uint64_t first, std::uint64_t end) const {
        return std::ranges::any_of(held_, [=](const Range& one) { return first < one.end && one.first < end; });
    }
    std::list<Range> held_;
    WaitList freed_;
};

/// Tells which calls have begun and not ended.
class CallTickets {
public:
    class [[nodiscard]] Ticket {
    public:
        explicit Ticket(CallTickets& calls) : calls_(calls), number_(calls.next()) { calls.ended_.push_back(false); }
        Ticket(const Ticket&) = delete;
        Ticket& operator=(const Ticket&) = delete;
        ~Ticket() { calls_.end(number_); }

    private:
        CallTickets& calls_;
        std::uint64_t number_;
    };
    /// Returns the ticket of the call that begins next.
    [[nodiscard]] std::uint64_t next() const { return oldest_ + ended_.size(); }
    /// Returns the ticket of the oldest call under way, next() if there is none.
    [[nodiscard]] std::uint64_t oldest() const { return oldest_; }
    /// Waits until all calls with smaller tickets have ended.
    Task<> ended_before(std::uint64_t number) {
        while (oldest_ < number) {
            co_await some_ended_.wait();
        }
    }

private:
    void end(std::uint64_t number) {
        ended_[number - oldest_] = true;
        while (!ended_.empty() && ended_.front()) {
            ended_.pop_front();
            ++oldest_;
        }
        if (!some_ended_.empty()) [[unlikely]] {
            some_ended_.wake_all();
        }
    }
    std::uint64_t oldest_ = 0;
    std::deque<bool> ended_;  ///< of the calls from oldest_ on
    WaitList some_ended_;
};

}  // namespace snapvm::disk::qcow2
