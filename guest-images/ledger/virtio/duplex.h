// SPDX-License-Identifier: Apache-2.0
// Two queues of a device, one each way: buffers that wait for what comes, and what is sent. What came can be sent from where it is, too.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Duplex {
public:
    // What came, in buffer `number`, and stays there until that is given back.
    struct Piece {
        u32 number;
        u64 address;
        u32 size;
    };

    // Of a device that has negotiated and not started. `count` buffers of `bytes` each; none: nothing is received.
    void set_up(Device& device, u32 receive, u32 transmit, u32 count, u32 bytes);
    // Once the device has been started: offers it the buffers.
    void listen();

    // The next piece that came; false: none at the moment.
    bool receive(Piece& piece);
    void give_back(u32 number);
    // From where it is; its buffer is given back when that is done.
    void send_back(const Piece& piece) { send(piece.address, piece.size, piece.number); }
    // What is sent stays as it is for good.
    void send(u64 address, u32 size) { send(address, size, kNoBuffer); }
    // Takes note of what has been sent, and shows the device what is to be, and where there is room again.
    void work();
    // An interrupt follows when something comes, and when all is sent. False: there is something already.
    bool ask_for_interrupt();

    // For who sends by himself.
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
