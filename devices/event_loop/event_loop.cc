// SPDX-License-Identifier: Apache-2.0
#include "devices/event_loop/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kWakeId = 0;
constexpr std::uint64_t kIntakeId = 1;

Status add(int epoll, int fd, std::uint32_t events, std::uint64_t id) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        return fail(Error::system("epoll_ctl", "device's descriptor", errno));
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    UniqueFd all(::epoll_create1(EPOLL_CLOEXEC));
    UniqueFd intake(::epoll_create1(EPOLL_CLOEXEC));
    UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!all.valid() || !intake.valid() || !wake.valid()) {
        return fail(Error::system("epoll_create1", "event loop", errno, "raise the limit of open files (ulimit -n)"));
    }
    std::unique_ptr<EventLoop> loop(new EventLoop(std::move(all), std::move(intake), std::move(wake)));
    TRY(add(loop->all_.get(), loop->wake_.get(), EPOLLIN, kWakeId));
    TRY(add(loop->all_.get(), loop->intake_.get(), EPOLLIN, kIntakeId));
    return loop;
}

EventLoop::~EventLoop() { stop(); }

EventLoop::Watch::~Watch() { loop_.forget(*this); }

Result<std::unique_ptr<EventLoop::Watch>> EventLoop::watch(Kind kind, int fd, std::uint32_t events, Callback callback) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t id = next_id_++;
    TRY(add(kind == Kind::intake ? intake_.get() : all_.get(), fd, events, id));
    sources_.emplace(id, std::make_shared<Source>(Source{kind, std::move(callback)}));
    return std::unique_ptr<Watch>(new Watch(*this, kind, fd, id));
}

void EventLoop::forget(const Watch& watch) {
    const std::lock_guard lock(mutex_);
    (void)::epoll_ctl(watch.kind_ == Kind::intake ? intake_.get() : all_.get(), EPOLL_CTL_DEL, watch.fd_, nullptr);
    sources_.erase(watch.id_);
}

Status EventLoop::start() {
    if (thread_.joinable()) {
        return {};
    }
    auto thread = start_thread(ThreadRole::devices, [this] {
        while (!over_) {
            (void)dispatch(-1);
        }
    });
    const std::lock_guard lock(mutex_);  // wait_until() on another thread may look at thread_
    thread_ = TRY(std::move(thread));
    return {};
}

void EventLoop::stop() {
    over_ = true;
    if (thread_.joinable()) {
        (void)::eventfd_write(wake_.get(), 1);
        thread_.join();
    }
}

bool EventLoop::dispatch(int timeout_ms) { return dispatch_from(all_.get(), timeout_ms); }

bool EventLoop::dispatch_from(int epoll, int timeout_ms) {
    std::array<epoll_event, 32> events;
    const int ready = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), timeout_ms);
    bool any = false;
    for (int i = 0; i < ready && !over_; ++i) {
        switch (const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64; id) {
            case kWakeId: {
                eventfd_t woken = 0;
                (void)::eventfd_read(wake_.get(), &woken);
                break;
            }
            case kIntakeId: any = dispatch_from(intake_.get(), 0) || any; break;
            default: call(id); any = true;
        }
    }
    return any;
}

void EventLoop::call(std::uint64_t id) {
    std::shared_ptr<Source> source;
    {
        const std::lock_guard lock(mutex_);
        const auto found = sources_.find(id);
        // The event was found before the intake was held or the watch was destroyed. Held intake
        // stays ready, so its event comes again.
        if (found == sources_.end() || (quiesced_ && found->second->kind == Kind::intake)) {
            return;
        }
        source = found->second;
        calling_ = true;
    }
    source->callback();
    source.reset();
    const std::lock_guard lock(mutex_);
    calling_ = false;
    changed_.notify_all();
}

void EventLoop::end_work() {
    if (--busy_ == 0) {
        const std::lock_guard lock(mutex_);
        changed_.notify_all();
    }
}

// Modifies the entry, which cannot fail. Removing and adding it could.
void EventLoop::admit_intake(bool admit) {
    epoll_event event{};
    event.events = admit ? EPOLLIN : 0U;
    event.data.u64 = kIntakeId;
    (void)::epoll_ctl(all_.get(), EPOLL_CTL_MOD, intake_.get(), &event);
}

bool EventLoop::quiesce(std::chrono::steady_clock::time_point deadline) {
    {
        const std::lock_guard lock(mutex_);
        quiesced_ = true;
        admit_intake(false);
    }
    return wait_until(deadline, [this] { return !calling_ && busy_ == 0; });
}

bool EventLoop::wait_until(std::chrono::steady_clock::time_point deadline, const std::function<bool()>& done) {
    constexpr std::chrono::milliseconds kLook{100};
    std::unique_lock lock(mutex_);
    if (thread_.joinable()) {
        return changed_.wait_until(lock, deadline, done);
    }
    while (!done()) {
        const auto left = deadline - std::chrono::steady_clock::now();
        if (left <= left.zero()) {
            return false;
        }
        lock.unlock();
        // There is no thread, so the caller dispatches.
        (void)dispatch(static_cast<int>(
            std::chrono::ceil<std::chrono::milliseconds>(std::min<decltype(left)>(left, kLook)).count()));
        lock.lock();
    }
    return true;
}

void EventLoop::thaw() {
    const std::lock_guard lock(mutex_);
    quiesced_ = false;
    admit_intake(true);
}

}  // namespace snapvm
