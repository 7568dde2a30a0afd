// SPDX-License-Identifier: Apache-2.0
// Reads random numbers from a virtio entropy device. Source: virtio 1.2, 5.4.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Rng {
public:
    static constexpr u32 kRequests = 4;  // in a draw, of two buffers each
    static constexpr u32 kBytes = 64;

    // Returns false if there is no such device. `ring_features` is as in Device::negotiate().
    bool start(u64 ring_features);
    // Fills `to` as far as the device delivers, and returns the number of bytes. Waits until the
    // device has interrupted. Ends the guest if the device wrote more than it says.
    u32 draw(u8 (&to)[kBytes]);

    [[nodiscard]] const Device& device() const { return device_; }
    [[nodiscard]] const Queue& queue() const { return queue_; }

private:
    Device device_;
    Queue queue_;
    u8* bytes_ = nullptr;
};

}  // namespace snapvm::guest::virtio
