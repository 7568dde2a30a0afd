// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/vsock/reset_event.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <array>
#include <cerrno>
#include <cstddef>

#include "vmm/base/try.h"

namespace snapvm::virtio::vsock {
namespace {

// struct virtio_vsock_event: le32 id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
constexpr std::array<std::byte, 4> kTransportReset = {};
constexpr itimerspec kPatience = {.it_interval = {}, .it_value = {.tv_sec = 1, .tv_nsec = 0}};

}  // namespace

Status ResetEvent::begin(std::function<void()> over) {
    timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer_.valid() || ::timerfd_settime(timer_.get(), 0, &kPatience, nullptr) != 0) {
        return fail(
            Error::system("timerfd_create", "virtio-vsock", errno, "raise the limit of open files (ulimit -n)"));
    }
    waits_ = true;
    over_ = std::move(over);
    timer_watch_ = TRY(transport_.watch(EventLoop::Kind::intake, timer_.get(), EPOLLIN, [this] {
        timer_watch_.reset();
        over_();
    }));
    return {};
}

void ResetEvent::cancel() {
    waits_ = false;
    timer_watch_.reset();
}

// The driver has handled the event once there are more buffers than when it was sent: it puts the
// buffer of the event back.
Status ResetEvent::notified() {
    if (waits_) {
        return send();
    }
    if (under_way() && TRY(transport_.queue(queue_).resume_notifications(left_))) {
        timer_watch_.reset();
        over_();
    }
    return {};
}

Status ResetEvent::send() {
    Queue& queue = transport_.queue(queue_);
    Chain chain;
    for (unsigned budget = queue.state().size; waits_ && budget > 0; --budget) {
        if (!TRY(queue.pop(chain))) {
            if (!TRY(queue.resume_notifications())) {
                return {};
            }
            continue;
        }
        left_ = TRY(queue.waiting());  // before the push: the driver may put this one back at once
        const bool fits = chain.writable_bytes >= kTransportReset.size();
        queue.push(
            chain.head,
            fits ? static_cast<std::uint32_t>(TRY(write_chain(transport_.memory(), chain, 0, kTransportReset))) : 0);
        waits_ = !fits;
    }
    transport_.signal_used(queue_);
    if (waits_) {
        (void)TRY(queue.resume_notifications());
        return {};
    }
    return notified();
}

}  // namespace snapvm::virtio::vsock
