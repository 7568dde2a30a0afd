// SPDX-License-Identifier: Apache-2.0
// Keeps one stream to the host's port kLoadPort, over vsock.
#include "guest-images/ledger/load/load.h"
#include "guest-images/ledger/virtio/vsock.h"

namespace snapvm::guest::load {
namespace {

using virtio::Vsock;

constinit Vsock vsock;
bool there = false;
Vsock::Connection* stream = nullptr;
u64 unread = 0;  // bytes that came and that no order has asked for yet

void collect() {
    for (Vsock::Packet packet; vsock.receive(packet); vsock.give_back(packet.number)) {
        vsock.take(*packet.connection, packet.size);
        unread += packet.size;
    }
    vsock.work();
}

void connect() {
    if (stream != nullptr) vsock.close(*stream);
    unread = 0;
    stream = vsock.connect(ledger::kLoadPort);
    while (stream != nullptr && !stream->up() && !stream->peer_is_done()) {
        vsock.wait(false);
        collect();
    }
}

// Sends `size` bytes. One slot stays free for a credit update.
bool send_all(u64 payload, u32 size) {
    while (!stream->peer_is_done() && (stream->credit() < size || vsock.free_slots() < 2)) {
        vsock.wait(vsock.free_slots() < 2);
        collect();
    }
    return !stream->peer_is_done() && vsock.send(*stream, payload, size);
}

bool receive(u64 bytes) {
    for (collect(); unread < bytes; collect()) {
        if (stream->peer_is_done()) return false;
        vsock.wait(false);
    }
    unread -= bytes;
    return true;
}

// Waits until the device has taken all that was sent.
void flush() {
    while (vsock.free_slots() < Vsock::kSlots && !stream->peer_is_done()) {
        vsock.wait(true);
        collect();
    }
}

bool run(const LoadOrder& order) {
    const u32 size = static_cast<u32>(order.size);
    if (order.kind == ledger::LoadKind::stream_in) {
        for (u64 i = 0; i < order.count; ++i, count_done())
            if (!receive(size)) return false;
        return true;
    }
    for (u64 i = 0; i < order.count; ++i, count_done()) {
        if (!send_all(region().address, size)) return false;
        vsock.work();
        if (order.kind == ledger::LoadKind::echo && !receive(size)) return false;
    }
    flush();
    return !stream->peer_is_done();
}

}  // namespace

void start_stream(u64 ring_features, u64 receive) {
    there = vsock.start(ring_features, static_cast<u32>(receive), 0);
    if (there) connect();
}

// A restore ends the stream, so the guest connects again.
void serve_stream() {
    if (!there) return;
    collect();
    if (vsock.take_reset()) connect();
}

LoadFault run_stream(const LoadOrder& order) {
    if (!there) return LoadFault::no_device;
    if (order.size == 0 || order.size > Vsock::kMostPayload || order.size > region().bytes) return LoadFault::refused;
    serve_stream();
    const u64 notified = vsock.notifications();
    const bool good = stream != nullptr && stream->up() && run(order);
    count_notifications(vsock.notifications() - notified);
    return good ? LoadFault::none : LoadFault::failed;
}

}  // namespace snapvm::guest::load
