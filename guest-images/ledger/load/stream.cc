// SPDX-License-Identifier: Apache-2.0
// One stream to the host's port kLoadPort, over vsock. Source: virtio 1.2, 5.10.
#include "guest-images/ledger/layout.h"
#include "guest-images/ledger/load/load.h"

namespace snapvm::guest::load {
namespace {

using namespace virtio;

constexpr u32 kRx = 0, kTx = 1, kEvents = 2;  // queues
constexpr u64 kHostCid = 2;
constexpr u32 kOwnPort = 1024;
constexpr u16 kStream = 1;
enum Op : u16 { request = 1, response = 2, reset = 3, shutdown = 4, data = 5, credit_update = 6, credit_request = 7 };

constexpr u32 kRxBytes = 4 << 20;  // of buffers in all
constexpr u32 kMostRx = Queue::kMostEntries / 2, kTxSlots = 32;  // each of two buffers, without indirect tables
constexpr u32 kRoom = 256 << 10;  // buf_alloc, as Linux has it

// struct virtio_vsock_hdr, with nothing between its fields.
struct [[gnu::packed]] Header {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port, len;
    u16 type, op;
    u32 flags, buf_alloc, fwd_cnt;
};
static_assert(sizeof(Header) == 44);

struct Connection {
    u64 cid;
    bool up, ended;
    u32 sent, peer_room, peer_taken;  // what may be sent: peer_room - (sent - peer_taken)
    u32 taken, told;  // what came and was taken; what the peer knows of it
    u64 unread;  // of that, what no order has asked for yet
    bool update_asked;
};

constinit Device device;
constinit Queue rx, tx, events;
bool there = false;
Connection connection;
u32 rx_size = 0, rx_count = 0;
u64 rx_buffers = 0;
Header rx_headers[kMostRx], tx_headers[kTxSlots];
u32 free_tx[kTxSlots], free_tx_count = 0;
u64 event_buffer[8];

void give(u32 slot) {
    const Buffer buffers[] = {{reinterpret_cast<u64>(&rx_headers[slot]), sizeof(Header), true},
                              {rx_buffers + u64{slot} * rx_size, rx_size, true}};
    if (!rx.add(buffers, 2, slot)) broken(Type::vsock, "a queue has less room than it said");
}

u32 credit() { return connection.peer_room - (connection.sent - connection.peer_taken); }

bool send(Op op, u64 payload = 0, u32 size = 0) {
    if (free_tx_count == 0) return false;
    const u32 slot = free_tx[--free_tx_count];
    connection.told = connection.taken;
    connection.update_asked = false;
    connection.sent += size;
    tx_headers[slot] = {connection.cid, kHostCid, kOwnPort, ledger::kLoadPort, size, kStream, op, 0, kRoom, connection.taken};
    const Buffer buffers[] = {{reinterpret_cast<u64>(&tx_headers[slot]), sizeof(Header), false}, {payload, size, false}};
    return tx.add(buffers, size == 0 ? 1 : 2, slot);
}

void take(const Header& header) {
    if (header.dst_port != kOwnPort || header.src_port != ledger::kLoadPort) return;
    connection.peer_room = header.buf_alloc;
    connection.peer_taken = header.fwd_cnt;
    switch (header.op) {
        case response: connection.up = true; break;
        case data:
            connection.taken += header.len;
            connection.unread += header.len;
            break;
        case credit_request: connection.update_asked = true; break;
        case reset:
        case shutdown: connection.ended = true; break;
        default: break;
    }
}

// What both queues have done.
void collect() {
    for (Used used; tx.collect(used);) free_tx[free_tx_count++] = static_cast<u32>(used.cookie);
    for (Used used; rx.collect(used);) {
        const u32 slot = static_cast<u32>(used.cookie);
        take(rx_headers[slot]);
        give(slot);
    }
    if (connection.update_asked || connection.taken - connection.told >= kRoom / 2) send(credit_update);
    tx.submit();
    rx.submit();
}

// Sleeps until one of the queues has something. `room`: a packet that the device has taken counts, too.
void wait(bool room) {
    for (;;) {
        const u64 seen = self().events;
        device.acknowledge();
        if (!rx.ask_for_interrupt(1) || (room && !tx.ask_for_interrupt(1))) break;
        halt(seen);
    }
    rx.ask_for_none();
    tx.ask_for_none();
}

void connect() {
    send(request);
    tx.submit();
    while (!connection.up && !connection.ended) {
        wait(false);
        collect();
    }
}

bool send_all(u64 payload, u32 size) {
    while (!connection.ended && (credit() < size || free_tx_count < 2)) {  // one is kept for an update
        wait(free_tx_count < 2);
        collect();
    }
    return !connection.ended && send(data, payload, size);
}

bool receive(u64 bytes) {
    for (collect(); connection.unread < bytes; collect()) {
        if (connection.ended) return false;
        wait(false);
    }
    connection.unread -= bytes;
    return true;
}

// The last of what was sent is out of the guest's hands.
void flush() {
    while (free_tx_count < kTxSlots && !connection.ended) {
        wait(true);
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
        tx.submit();
        if (order.kind == ledger::LoadKind::echo && !receive(size)) return false;
    }
    flush();
    return !connection.ended;
}

}  // namespace

void start_stream(u64 ring_features, u64 receive) {
    there = device.find(Type::vsock);
    if (!there) return;
    device.negotiate(ring_features);
    connection.cid = device.config64(0);
    rx_size = static_cast<u32>(receive);
    rx_count = kRxBytes / rx_size < kMostRx ? kRxBytes / rx_size : kMostRx;
    rx_buffers = take_memory(u64{rx_size} * rx_count, "no memory for the stream");
    rx.set_up(device, kRx, kMostRx * 2);
    tx.set_up(device, kTx, kTxSlots * 2);
    events.set_up(device, kEvents, 8);
    for (u32 slot = 0; slot < kTxSlots; ++slot) free_tx[free_tx_count++] = slot;
    device.start();
    for (u32 slot = 0; slot < rx_count; ++slot) give(slot);
    rx.submit();
    const Buffer event{reinterpret_cast<u64>(event_buffer), sizeof event_buffer, true};
    events.add(&event, 1, 0);
    events.submit();
    connect();
}

LoadFault run_stream(const LoadOrder& order) {
    if (!there) return LoadFault::no_device;
    if (order.size == 0 || order.size > (64 << 10) || order.size > region().bytes) return LoadFault::refused;
    const u64 notified = rx.notifications() + tx.notifications();
    const bool good = connection.up && run(order);
    count_notifications(rx.notifications() + tx.notifications() - notified);
    return good ? LoadFault::none : LoadFault::failed;
}

}  // namespace snapvm::guest::load
