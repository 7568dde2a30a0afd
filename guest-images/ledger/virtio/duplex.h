// SPDX-License-Identifier: Apache-2.0
// Two queues of a device, one for each direction. Buffers wait in one queue for what comes; the
// other sends. What came can be sent back out of its buffer.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Duplex {
public:
    // What came into buffer `number`. It stays there until the buffer is given back.
    struct Piece {
        u32 number;
        u64 address;
        u32 size;
    };

    // Sets up the queues of a device that has negotiated and not started. Takes memory for `count`
    // buffers of `bytes` each; with 0 nothing is received.
    void set_up(Device& device, u32 receive, u32 transmit, u32 count, u32 bytes);
    // Offers the device the buffers. It is called once the device has been started.
    void listen();

    // Gets the next piece that came. Returns false if there is none.
    bool receive(Piece& piece);
    void give_back(u32 number);
    // Sends a piece out of its buffer, which is given back when the piece is sent.
    void send_back(const Piece& piece) { send(piece.address, piece.size, piece.number); }
    // Sends bytes that never change.
    void send(u64 address, u32 size) { send(address, size, kNoBuffer); }
    // Handles what has been sent, and shows the device what is to be sent and the buffers that are
    // free again.
    void work();
    // Requests an interrupt when something comes, and when all is sent. Returns false if one of
    // them has happened already.
    bool ask_for_interrupt();

    // For callers that send on their own.
    [[nodiscard]] Queue& transmitter() { return transmit_; }

private:
    static constexpr u64 kNoBuffer = ~0ULL;
    void send(u64 address, u32 size, u64 cookie);

    Device* device_ = nullptr;
    Queue receive_, transmit_;
    u64 buffers_ = 0;
    u32 count_ = 0, bytes_ = 0;
};

}  // namespace snapvm::guest::virtio
