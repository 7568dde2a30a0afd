// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/duplex.h"

#include "guest-images/ledger/layout.h"

namespace snapvm::guest::virtio {

void Duplex::set_up(Device& device, u32 receive, u32 transmit, u32 count, u32 bytes) {
    device_ = &device;
    count_ = count;
    bytes_ = bytes;
    if (count != 0) buffers_ = take_memory(u64{count} * bytes, "no memory for a device's buffers");
    receive_.set_up(device, receive, Queue::kMostEntries);
    transmit_.set_up(device, transmit, Queue::kMostEntries);
    if (receive_.entries() < count || transmit_.entries() < count) broken(device.type(), "its queues are too small");
}

void Duplex::listen() {
    for (u32 number = 0; number < count_; ++number) give_back(number);
    receive_.submit();
}

bool Duplex::receive(Piece& piece) {
    Used used;
    if (!receive_.collect(used)) return false;
    const u32 number = static_cast<u32>(used.cookie);
    if (used.written == 0) broken(device_->type(), "gave nothing");
    piece = {number, buffers_ + u64{number} * bytes_, used.written};
    return true;
}

void Duplex::give_back(u32 number) {
    const Buffer buffer{buffers_ + u64{number} * bytes_, bytes_, true};
    if (!receive_.add(&buffer, 1, number)) broken(device_->type(), "a queue has less room than it said");
}

void Duplex::send(u64 address, u32 size, u64 cookie) {
    const Buffer buffer{address, size, false};
    if (!transmit_.add(&buffer, 1, cookie)) broken(device_->type(), "a queue has less room than it said");
}

void Duplex::work() {
    for (Used used; transmit_.collect(used);)
        if (used.cookie != kNoBuffer) give_back(static_cast<u32>(used.cookie));
    receive_.submit();
    transmit_.submit();
}

bool Duplex::ask_for_interrupt() {
    const u32 on_their_way = transmit_.outstanding();
    return receive_.ask_for_interrupt(1) && (on_their_way == 0 || transmit_.ask_for_interrupt(on_their_way));
}

}  // namespace snapvm::guest::virtio
