// SPDX-License-Identifier: Apache-2.0
// A virtio balloon over memory in one piece. It takes pages from the first one on, up to the host's
// target. Source: virtio 1.2, 5.5.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Balloon {
public:
    // Returns false if there is no such device. `address` and `bytes` are whole pages. With
    // `hints`, pages that the balloon does not hold are reported as free if the host asks, and so
    // no snapshot contains them. `ring_features` is as in Device::negotiate().
    bool start(u64 ring_features, u64 address, u64 bytes, bool hints);
    // Does what the host has asked for since the last call.
    void serve();
    // Returns how many pages the balloon holds.
    [[nodiscard]] u64 held() const { return held_; }

private:
    static constexpr u32 kNumbers = 256;  // pages of a chain, as in Linux
    void tell(Queue& queue, u64 first, u64 end);
    void follow_target();
    void answer_hints();

    Device device_;
    Queue inflate_, deflate_, hints_;
    u64 first_page_ = 0, pages_ = 0;  // of the memory that it may take
    u32 (*numbers_)[kNumbers] = nullptr;  // one array for each chain
    u64 held_ = 0;
    u32 hint_id_ = 0, stop_id_ = 0;
};

}  // namespace snapvm::guest::virtio
