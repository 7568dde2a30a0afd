// SPDX-License-Identifier: Apache-2.0
// Tells the driver of a restored machine that its connections are gone. Source: virtio 1.2,
// 5.10.6.7 "Device Events".
#pragma once

#include <chrono>
#include <memory>

#include "devices/virtio/device.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio::vsock {

/// Sends the event once there is a buffer in the event queue, then waits until the driver has put
/// one back. Linux' driver resets all connections that exist when it handles the event, so a
/// connection that either side made before that would be lost too.
class ResetEvent {
public:
    ResetEvent(Transport& transport, std::size_t queue) : transport_(transport), queue_(queue) {}

    /// Begins to send the event. `over` is called once new connections may be made.
    Status begin(std::function<void()> over);
    /// Handles buffers that the driver may have put into the queue.
    Status notified();
    /// Ends the wait, because the driver starts over and has no connections.
    void cancel();
    /// Whether new connections must wait. Packets of the driver must wait too.
    [[nodiscard]] bool under_way() const { return timer_watch_ != nullptr; }

private:
    Status send();

    Transport& transport_;
    std::size_t queue_;
    bool waits_ = false;  ///< waits for a buffer
    std::uint16_t left_ = 0;  ///< buffers in the queue when the event was sent
    std::function<void()> over_;
    UniqueFd timer_;  ///< limits the wait, for a driver that puts no buffer back
    std::unique_ptr<Transport::Watch> timer_watch_;
};

}  // namespace snapvm::virtio::vsock
