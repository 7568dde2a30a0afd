// SPDX-License-Identifier: Apache-2.0
// What is behind a virtio transport: one device's own part, and what it may ask of the transport. Source: virtio 1.2, chapters 2, 3 and 5.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "devices/event_loop/event_loop.h"
#include "devices/virtio/queue/queue.h"
#include "vmm/base/bytes.h"
#include "vmm/base/error.h"
#include "vmm/base/state_record.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::virtio {

/// Chapter 5's numbers.
enum class DeviceType : std::uint32_t { net = 1, block = 2, console = 3, entropy = 4, balloon = 5, vsock = 19 };

/// The transport, as its device sees it. Everything is called with the transport's lock held, on any thread; callbacks of `watch` come on
/// the event loop's, with that lock held too.
class Port {
public:
    /// Ends the watch; its callback does not run after that.
    class Watch {
    public:
        virtual ~Watch() = default;
    };

    virtual ~Port() = default;
    [[nodiscard]] virtual Queue& queue(std::size_t index) = 0;
    [[nodiscard]] virtual GuestMemory& memory() = 0;
    [[nodiscard]] virtual EventLoop& loop() = 0;
    /// The features that both sides agreed on.
    [[nodiscard]] virtual std::uint64_t features() const = 0;
    /// The driver is there (DRIVER_OK), and neither in need of a reset nor in the middle of one.
    [[nodiscard]] virtual bool running() const = 0;
    /// Tells the driver of what was pushed to a queue, if it wants to know.
    virtual void signal_used(std::size_t queue) = 0;
    /// Tells it that the configuration space has changed.
    virtual void signal_config() = 0;
    /// Has `Device::notified` called for all queues again, after others have had their turn.
    virtual void ring() = 0;
    virtual Result<std::unique_ptr<Watch>> watch(EventLoop::Kind kind, int fd, std::uint32_t events,
                                                 EventLoop::Callback callback) = 0;
};

/// One device's own part. The lock is held in every call but `drain`.
class Device {
public:
    virtual ~Device() = default;
    [[nodiscard]] virtual DeviceType type() const = 0;
    /// Feature bits 0 to 23 and 50 on of this device; those of queues and transport are the transport's.
    [[nodiscard]] virtual std::uint64_t features() const = 0;
    /// Entries at most, a queue each.
    [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const = 0;
    /// The configuration space; `data` is zeros before. Beyond the space: left as they are.
    virtual void read_config(std::uint64_t offset, std::span<std::byte> data) const {
        (void)offset;
        (void)data;
    }
    virtual void write_config(std::uint64_t offset, std::span<const std::byte> data) {
        (void)offset;
        (void)data;
    }

    /// Once, before anything else. Nothing has run yet: here watches may be set up.
    virtual Status attach(Port& port) = 0;
    /// The driver is there (DRIVER_OK), or is there still, where the machine was restored: both before its first `notified`. On a vCPU's thread:
    /// begins no work (EventLoop::begin_work), which is for `notified`.
    virtual void activate() {}
    /// The driver may have put something into this queue. An error is the driver's fault and makes the device need a reset.
    virtual Status notified(std::size_t queue) = 0;
    /// Returns when nothing that was begun can touch guest memory any more. Without the lock; nothing new begins meanwhile.
    virtual void drain() {}
    /// The driver starts over. After `drain`. What was watched on the driver's behalf is no more: a source that nobody empties would be called for
    /// ever.
    virtual void reset() {}
    /// Before the vCPUs of a restored machine first run.
    virtual Status restored() { return {}; }

    /// Everything of it that the guest could tell; a device is constructed from it. Nothing is under way (EventLoop::hold).
    virtual void encode(Encoder& out) const = 0;
};

/// Hands each chain that waits in a queue to `handle(chain)`, which returns the bytes it wrote (Result<std::uint32_t>), gives it back and
/// tells the driver. At most as many as the queue is long, or `most`: then it rings, so that nobody starves the other devices.
template <class Handle>
Status serve(Port& port, std::size_t index, Handle handle, unsigned most = ~0U) {
    Queue& queue = port.queue(index);
    Chain chain;
    queue.suppress_notifications();
    unsigned budget = std::min<unsigned>(queue.state().size, most);
    while (true) {
        if (budget-- == 0) {
            port.ring();
            break;
        }
        const auto taken = queue.pop(chain);
        if (!taken) {
            return fail(taken.error());
        }
        if (!*taken) {
            const auto more = queue.resume_notifications();
            if (!more) {
                return fail(more.error());
            }
            if (!*more) {
                break;
            }
            continue;
        }
        const Result<std::uint32_t> written = handle(chain);
        if (!written) {
            return fail(written.error());
        }
        queue.push(chain.head, *written);
    }
    port.signal_used(index);
    return {};
}

}  // namespace snapvm::virtio
