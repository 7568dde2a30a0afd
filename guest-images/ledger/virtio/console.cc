// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/console.h"

namespace snapvm::guest::virtio {
namespace {

constexpr u32 kReceive = 0, kTransmit = 1;  // of port 0; other ports exist with MULTIPORT only

}  // namespace

bool Console::start(u64 ring_features) {
    if (!device_.find(Type::console)) return false;
    device_.negotiate(ring_features);
    port_.set_up(device_, kReceive, kTransmit, kBuffers, kBufferBytes);
    device_.start();
    port_.listen();
    return true;
}

}  // namespace snapvm::guest::virtio
