// SPDX-License-Identifier: Apache-2.0
// A virtio balloon over memory in one piece, which it takes from its first page on, as much as the host wants. Source: virtio 1.2, 5.5.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Balloon {
public:
    // False: there is no such device. `address` and `bytes` are whole pages; `hints`: what it does not hold is told as free when the host
    // asks, and so is in no snapshot. `ring_features` as of Device::negotiate.
    bool start(u64 ring_features, u64 address, u64 bytes, bool hints);
    // Does what the host has asked for since.
    void serve();
    // Pages that it holds.
    [[nodiscard]] u64 held() const { return held_; }

private:
    static constexpr u32 kNumbers = 256;  // pages a chain, as Linux has it
    void tell(Queue& queue, u64 first, u64 end);
    void follow_target();
    void answer_hints();

    Device device_;
    Queue inflate_, deflate_, hints_;
    u64 first_page_ = 0, pages_ = 0;  // its memory
    u32 (*numbers_)[kNumbers] = nullptr;  // an array a chain
    u64 held_ = 0;
    u32 hint_id_ = 0, stop_id_ = 0;
};

}  // namespace snapvm::guest::virtio
