// SPDX-License-Identifier: Apache-2.0
// A virtio console's port 0. Source: virtio 1.2, 5.3.
#pragma once

#include "guest-images/ledger/virtio/duplex.h"

namespace snapvm::guest::virtio {

class Console {
public:
    static constexpr u32 kBuffers = 8, kBufferBytes = 32;  // small, so that input arrives in several buffers

    // Returns false if there is no such device. `ring_features` is as in Device::negotiate().
    bool start(u64 ring_features);
    [[nodiscard]] Duplex& port() { return port_; }

private:
    Device device_;
    Duplex port_;
};

}  // namespace snapvm::guest::virtio
