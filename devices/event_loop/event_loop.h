// SPDX-License-Identifier: Apache-2.0
// Where devices do their work: one thread a machine that waits for descriptors and calls who watches them.
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

/// Two kinds of sources: intake brings new work (a driver's doorbell, a packet, a keystroke), completion ends work that was begun (a disk's
/// answer). A hold stops intake and waits until what was begun has ended, while the guest runs: so a pause waits for no disk, and memory
/// that a device writes is quiet in it.
///
/// Without `start` nothing runs by itself: `run_pending` does what is ready, for tests. Callbacks run one at a time, on the loop's thread.
/// No lock of the loop's is held meanwhile, so they may take any, and use the loop.
class EventLoop {
public:
    enum class Kind : std::uint8_t { intake, completion };
    using Callback = std::function<void()>;

    /// A watched descriptor, until this is destroyed. Its callback does not begin after that, but may be running: who destroys it under
    /// a lock that the callback takes first must look again there whether it still exists.
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
    /// Ends the thread. Watches go before.
    ~EventLoop();

    /// Calls `callback` whenever one of `events` (EPOLLIN, EPOLLOUT, …) is ready on `fd`, which stays the caller's and outlives the watch.
    Result<std::unique_ptr<Watch>> watch(Kind kind, int fd, std::uint32_t events, Callback callback);
    /// Starts the thread. Idempotent.
    Status start();
    /// Ends it, for good: no callback runs any more. Idempotent.
    void stop();
    /// What is ready now, once; where there is no thread. Returns whether there was anything.
    bool run_pending() { return dispatch(0); }

    /// Work that ends by a completion: a hold waits for it. Any thread.
    void begin_work() { ++busy_; }
    void end_work();

    /// No callback of the intake begins before `release`, whatever this returns: true once none runs any more and all work has ended, false
    /// if that is not so by the deadline; asked again, it waits on. Both idempotent. Not on the loop's thread.
    bool hold(std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max());
    void release();
    /// Returns when `done` does, which callbacks bring about; looked at after each of them, under the loop's lock: it takes no other. Not on
    /// the loop's thread.
    void wait(const std::function<bool()>& done) { (void)wait_until(std::chrono::steady_clock::time_point::max(), done); }

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

    UniqueFd all_;  ///< epoll: completions, the wake-up and, unless held, `intake_`
    UniqueFd intake_;  ///< an epoll of its own, so that a hold is one call however many sources there are
    UniqueFd wake_;  ///< eventfd

    std::mutex mutex_;  // guards the four below, and the setting of thread_; innermost
    std::condition_variable changed_;
    std::map<std::uint64_t, std::shared_ptr<Source>> sources_;
    std::uint64_t next_id_ = 2;  ///< 0 is the wake-up, 1 the intake
    bool held_ = false;
    bool calling_ = false;

    std::atomic<std::uint64_t> busy_ = 0;
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

}  // namespace snapvm
