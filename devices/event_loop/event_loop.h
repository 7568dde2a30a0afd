// SPDX-License-Identifier: Apache-2.0
// The event loop of a machine's devices: one thread that waits for descriptors and calls the
// callbacks that watch them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// Sources are of two kinds. Intake brings new work: a driver's notification, a packet, a
/// keystroke. Completion ends work that was begun: a disk's answer. quiesce() holds the intake and
/// waits until work in flight has ended, while the guest runs. So a pause does not wait for a disk,
/// and devices write no guest memory during it.
///
/// Without start() there is no thread, and run_pending() handles what is ready, for tests.
/// Callbacks run one at a time, on the loop's thread. The loop holds no lock meanwhile, so a
/// callback may take any lock and call the loop.
class EventLoop {
public:
    enum class Kind : std::uint8_t { intake, completion };
    using Callback = std::function<void()>;

    /// Watches a descriptor until it is destroyed. After that its callback does not begin any more,
    /// but it may be running. If the watch is destroyed under a lock, a callback that takes this
    /// lock must check then whether the watch still exists.
    class Watch {
    public:
        ~Watch();
        Watch(const Watch&) = delete;
        Watch& operator=(const Watch&) = delete;

    private:
        friend class EventLoop;
        Watch(EventLoop& loop, Kind kind, int fd, std::uint64_t id) : loop_(loop), kind_(kind), fd_(fd), id_(id) {}
        EventLoop& loop_;
        Kind kind_;
        int fd_;
        std::uint64_t id_;
    };

    static Result<std::unique_ptr<EventLoop>> create();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;
    /// Ends the thread. All watches must be destroyed before.
    ~EventLoop();

    /// Calls `callback` whenever one of `events` (EPOLLIN, EPOLLOUT, …) is ready on `fd`. The
    /// caller owns `fd`, which must outlive the watch. Any thread.
    Result<std::unique_ptr<Watch>> watch(Kind kind, int fd, std::uint32_t events, Callback callback);
    /// Starts the thread. Idempotent.
    Status start();
    /// Ends the thread for good: no callback runs afterwards. Idempotent.
    void stop();
    /// Without a thread: runs the callbacks of what is ready now, once. Returns whether there were
    /// any.
    bool run_pending() { return dispatch(0); }

    /// Counts work that a completion ends with end_work(); quiesce() waits for it. Any thread.
    void begin_work() { ++busy_; }
    void end_work();

    /// Holds the intake: whatever it returns, no callback of the intake begins before thaw().
    /// Returns true once no callback runs and all work has ended, or false if that is not so by the
    /// deadline. Another call then continues to wait. Idempotent, as thaw() is. Must not be called
    /// on the loop's thread.
    bool quiesce(std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max());
    void thaw();
    /// Waits until `done` returns true. It is evaluated after each callback, with the loop's lock
    /// held, and must take no other lock. Must not be called on the loop's thread.
    void wait(const std::function<bool()>& done) {
        (void)wait_until(std::chrono::steady_clock::time_point::max(), done);
    }

private:
    struct Source {
        Kind kind{};
        Callback callback;
    };
    EventLoop(UniqueFd all, UniqueFd intake, UniqueFd wake)
        : all_(std::move(all)), intake_(std::move(intake)), wake_(std::move(wake)) {}
    bool wait_until(std::chrono::steady_clock::time_point deadline, const std::function<bool()>& done);
    bool dispatch(int timeout_ms);
    bool dispatch_from(int epoll, int timeout_ms);
    void call(std::uint64_t id);
    void admit_intake(bool admit);
    void forget(const Watch& watch);

    UniqueFd all_;  ///< epoll: completions, the wake-up and, unless quiesced, `intake_`
    UniqueFd intake_;  ///< epoll of all intake, so that one call holds it, however many sources there are
    UniqueFd wake_;  ///< eventfd that ends a wait

    std::mutex mutex_;  // guards the four below, and the setting of thread_; innermost
    std::condition_variable changed_;
    std::map<std::uint64_t, std::shared_ptr<Source>> sources_;
    std::uint64_t next_id_ = 2;  ///< 0 is wake_, 1 is intake_
    bool quiesced_ = false;
    bool calling_ = false;

    std::atomic<std::uint64_t> busy_ = 0;
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

}  // namespace snapvm
