// SPDX-License-Identifier: Apache-2.0
// Tells the driver of a restored machine that its connections are gone. Source: virtio 1.2, 5.10.6.7 "Device Events".
#pragma once

#include <chrono>
#include <memory>

#include "devices/virtio/device.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio::vsock {

/// Waits for a buffer in the event queue, then until the driver has put one back: Linux' driver resets all connections that it finds
/// when it gets to the event, so a new one made before that, by either side, would be lost with the old ones.
class ResetEvent {
public:
    ResetEvent(Port& port, std::size_t queue) : port_(port), queue_(queue) {}

    /// There is a reset to tell of. `over` is called when new connections may be made, if they may not at once.
    Status begin(std::function<void()> over);
    /// The driver may have put buffers into the queue.
    Status notified();
    /// The driver starts over: it has no connections.
    void cancel();
    /// No new connections yet: what the driver sends is to wait, too.
    [[nodiscard]] bool under_way() const { return timer_watch_ != nullptr; }

private:
    Status send();

    Port& port_;
    std::size_t queue_;
    bool waits_ = false;  ///< for a buffer
    std::uint16_t left_ = 0;  ///< buffers in the queue when the event had been sent
    std::function<void()> over_;
    UniqueFd timer_;  ///< a driver that puts none back holds the host up no longer than this
    std::unique_ptr<Port::Watch> timer_watch_;
};

}  // namespace snapvm::virtio::vsock
