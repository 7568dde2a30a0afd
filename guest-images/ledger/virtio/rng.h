// SPDX-License-Identifier: Apache-2.0
// Random numbers of a virtio entropy device. Source: virtio 1.2, 5.4.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Rng {
public:
    static constexpr u32 kRequests = 4;  // that a draw makes of it, of two buffers each
    static constexpr u32 kBytes = 64;

    // False: there is no such device. `ring_features` as of Device::negotiate.
    bool start(u64 ring_features);
    // Fills `to`, as far as the device gives; how many bytes are new. Returns only once the device has interrupted, and checks that
    // nothing but what it says was written.
    u32 draw(u8 (&to)[kBytes]);

    [[nodiscard]] const Device& device() const { return device_; }
    [[nodiscard]] const Queue& queue() const { return queue_; }

private:
    Device device_;
    Queue queue_;
    u8* bytes_ = nullptr;
};

}  // namespace snapvm::guest::virtio
