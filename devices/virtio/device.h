// SPDX-License-Identifier: Apache-2.0
// The interface between a virtio device and its transport: the device's own part, and what it may
// ask of the transport. Source: virtio 1.2, chapters 2, 3 and 5.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "devices/base/parsed_state.h"
#include "devices/event_loop/event_loop.h"
#include "devices/virtio/queue/queue.h"
#include "vmm/base/bytes.h"
#include "vmm/base/counters.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/state/state_record.h"

namespace snapvm::virtio {

/// Device types of chapter 5.
enum class DeviceType : std::uint32_t { net = 1, block = 2, console = 3, entropy = 4, balloon = 5, vsock = 19 };

/// The transport, as its device sees it. All functions are called with the transport's lock held,
/// on any thread. Callbacks of watch() run on the event loop's thread, with that lock held too.
class Transport {
public:
    /// A watched descriptor. Destroying it ends the watch: its callback does not run any more.
    class Watch {
    public:
        virtual ~Watch() = default;
    };

    virtual ~Transport() = default;
    [[nodiscard]] virtual Queue& queue(std::size_t index) = 0;
    [[nodiscard]] virtual GuestMemory& memory() = 0;
    [[nodiscard]] virtual EventLoop& loop() = 0;
    /// Returns the features that both sides agreed on.
    [[nodiscard]] virtual std::uint64_t features() const = 0;
    /// Whether the driver has set DRIVER_OK, the device does not need a reset, and none is in
    /// progress.
    [[nodiscard]] virtual bool running() const = 0;
    /// Interrupts the driver for what was pushed to a queue, if it wants that.
    virtual void signal_used(std::size_t queue) = 0;
    /// Tells the driver that the configuration space has changed.
    virtual void signal_config() = 0;
    /// Has Device::notified called for all queues again, after other devices had their turn.
    virtual void ring() = 0;
    /// Calls `callback` when one of `events` is ready on `fd`, which must outlive the watch.
    virtual Result<std::unique_ptr<Watch>> watch(EventLoop::Kind kind, int fd, std::uint32_t events,
                                                 EventLoop::Callback callback) = 0;
};

/// One device's own part. The transport's lock is held in every call but drain() and counters().
class Device {
public:
    virtual ~Device() = default;
    [[nodiscard]] virtual DeviceType type() const = 0;
    /// Returns the feature bits 0 to 23 and from 50 on of this device. The transport adds those of
    /// queues and transport.
    [[nodiscard]] virtual std::uint64_t features() const = 0;
    /// Returns the largest size of each queue, in entries.
    [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const = 0;
    /// Reads the configuration space. `data` holds zeros before; bytes beyond the space stay so.
    virtual void read_config(std::uint64_t offset, std::span<std::byte> data) const {
        (void)offset;
        (void)data;
    }
    virtual void write_config(std::uint64_t offset, std::span<const std::byte> data) {
        (void)offset;
        (void)data;
    }

    /// Called once, before anything else. May set up watches: nothing runs yet.
    virtual Status attach(Transport& transport) = 0;
    /// Called when the driver has set DRIVER_OK, and in a restored machine if it had; in both cases
    /// before the first notified(). On a vCPU's thread: it must begin no work
    /// (EventLoop::begin_work), which is for notified().
    virtual void activate() {}
    /// Called when the driver may have put chains into this queue. An error is the driver's fault:
    /// the device then needs a reset.
    virtual Status notified(std::size_t queue) = 0;
    /// Waits until nothing that was begun can touch guest memory any more. Called without the lock;
    /// nothing new begins meanwhile.
    virtual void drain() {}
    /// Resets the device for a driver that starts over. Called after drain(). Must end the watches
    /// that were set up for the driver: a source that nothing empties is reported without end.
    virtual void reset() {}
    /// Forgets the chains of a queue that the driver has stopped. Called after drain().
    virtual void queue_stopped(std::size_t queue) { (void)queue; }
    /// Called after a state was adopted, before the vCPUs run on from it, and before activate().
    virtual Status restored() { return {}; }

    /// Appends all state that the guest can observe. Nothing is in flight (EventLoop::quiesce).
    virtual void encode(Encoder& out) const = 0;
    /// Reads what encode() wrote, which is untrusted, and returns the state for adopt(). Changes
    /// nothing. Fails with invalid if the device cannot be in that state. The transport checks the
    /// decoder afterwards.
    virtual Result<std::unique_ptr<const ParsedState>> parse(Decoder& in) const = 0;
    /// Puts the device into a state that it has parsed, and leaves nothing of the one before: ends
    /// the watches and timers that were set up for its driver, and forgets its buffers, its
    /// position in chains, and what callers have asked for. Timers of the new state run from here
    /// on. Sends nothing and makes no call that can fail: activate() does, which follows if the
    /// state has a driver. Nothing is in flight. The transport has its new registers and queues.
    virtual void adopt(const ParsedState& state) noexcept = 0;
    /// Returns what the device has counted since it was constructed. Any thread.
    [[nodiscard]] const Counters& counters() const { return counters_; }

protected:
    Counters counters_;
};

/// Passes each chain that waits in a queue to `handle(chain)`, which returns the bytes it has
/// written (Result<std::uint32_t>); then gives the chain back and interrupts the driver. Handles at
/// most `max_chains` chains, and at most the queue's size; then it rings, so that other devices get
/// their turn.
template <class Handle>
Status serve(Transport& transport, std::size_t index, Handle handle, unsigned max_chains = ~0U) {
    Queue& queue = transport.queue(index);
    Chain chain;
    queue.suppress_notifications();
    unsigned budget = std::min<unsigned>(queue.state().size, max_chains);
    while (true) {
        if (budget-- == 0) {
            transport.ring();
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
    transport.signal_used(index);
    return {};
}

}  // namespace snapvm::virtio
