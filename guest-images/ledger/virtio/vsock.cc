// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/vsock.h"

#include "guest-images/ledger/layout.h"

namespace snapvm::guest::virtio {
namespace {

constexpr u32 kRx = 0, kTx = 1, kEvents = 2;  // queues
constexpr u32 kCidAt = 0;  // in struct virtio_vsock_config
constexpr u64 kHostCid = 2;
constexpr u16 kStream = 1;
constexpr u32 kFirstPort = 1024;
constexpr u32 kTransportReset = 0;  // an event's id
constexpr u32 kMostBytes = 4 << 20;  // of all receive buffers

}  // namespace

bool Vsock::start(u64 ring_features, u32 buffer_bytes, u32 listen_port) {
    if (!device_.find(Type::vsock)) return false;
    device_.negotiate(ring_features);
    cid_ = device_.config64(kCidAt);
    listen_port_ = listen_port;
    next_port_ = kFirstPort;
    buffer_bytes_ = buffer_bytes;
    buffer_count_ = kMostBytes / buffer_bytes < kMostBuffers ? kMostBytes / buffer_bytes : kMostBuffers;
    buffers_ = take_memory(u64{buffer_bytes_} * buffer_count_, "no memory for what vsock brings");
    rx_.set_up(device_, kRx, kMostBuffers * 2);
    tx_.set_up(device_, kTx, kSlots * 2);
    events_.set_up(device_, kEvents, kEventBuffers);
    for (u32 slot = 0; slot < kSlots; ++slot) free_[free_count_++] = slot;
    device_.start();
    for (u32 number = 0; number < buffer_count_; ++number) give_back(number);
    for (u32 number = 0; number < kEventBuffers; ++number) give_event_buffer(number);
    events_.ask_for_interrupt(1);
    rx_.submit();
    events_.submit();
    return true;
}

bool Vsock::put(Connection* owner, const Header& header, u64 payload) {
    if (free_count_ == 0) return false;
    const u32 slot = free_[--free_count_];
    tx_headers_[slot] = header;
    owners_[slot] = owner;
    const Buffer buffers[] = {{reinterpret_cast<u64>(&tx_headers_[slot]), sizeof(Header), false},
                              {payload, header.len, false}};
    if (!tx_.add(buffers, header.len == 0 ? 1 : 2, slot)) broken(Type::vsock, "a queue has less room than it said");
    return true;
}

bool Vsock::say(Connection& c, Op op, u64 payload, u32 size) {
    if (!put(&c, {cid_, kHostCid, c.own_port_, c.peer_port_, size, kStream, op, 0, kRoom, c.taken_}, payload))
        return false;
    c.told_ = c.taken_;
    c.update_due_ = false;
    c.sent_ += size;
    c.on_their_way_ += size;
    return true;
}

bool Vsock::send(Connection& c, u64 address, u32 size) { return size <= c.credit() && say(c, data, address, size); }

Vsock::Connection* Vsock::find(const Header& header) {
    for (Connection& c : connections_)
        if (c.in_use_ && c.own_port_ == header.dst_port && c.peer_port_ == header.src_port) return &c;
    return nullptr;
}

Vsock::Connection* Vsock::open(u32 own_port, u32 peer_port) {
    for (Connection& c : connections_) {
        if (c.in_use_) continue;
        c = {};
        c.in_use_ = true;
        c.own_port_ = own_port;
        c.peer_port_ = peer_port;
        return &c;
    }
    return nullptr;
}

// Each connection gets a new port, so that an answer to a request from before a transport reset is
// not taken for an answer to this one.
Vsock::Connection* Vsock::connect(u32 port) {
    Connection* c = open(next_port_, port);
    if (c == nullptr || !say(*c, request)) return nullptr;
    ++next_port_;
    work();
    return c;
}

void Vsock::close(Connection& c) {
    c.closing_ = true;
    say_what_is_due(c);
}

// If there is no free slot, work() calls this again later.
void Vsock::say_what_is_due(Connection& c) {
    if (c.closing_) {
        if (!c.reset_ && !say(c, reset)) return;
        for (Connection*& owner : owners_)
            if (owner == &c) owner = nullptr;
        c.in_use_ = false;
        return;
    }
    if (c.reset_) return;
    if (c.response_due_ && say(c, response)) c.response_due_ = false;
    if (c.update_due_ || c.taken_ - c.told_ >= kRoom / 2) say(c, credit_update);
}

void Vsock::accept_or_refuse(const Header& header) {
    if (header.op == reset) return;
    Connection* c = nullptr;
    if (header.op == request && listen_port_ != 0 && header.dst_port == listen_port_)
        c = open(header.dst_port, header.src_port);
    if (c == nullptr) {  // without a free slot no answer is sent: the peer has to ask again
        put(nullptr, {cid_, kHostCid, header.dst_port, header.src_port, 0, kStream, reset, 0, 0, 0}, 0);
        return;
    }
    c->up_ = true;
    c->response_due_ = true;
    c->peer_room_ = header.buf_alloc;
    c->peer_taken_ = header.fwd_cnt;
}

// Returns the connection that a header brings data for, nullptr if it brings none.
Vsock::Connection* Vsock::take_header(const Header& header) {
    if (header.src_cid != kHostCid || header.dst_cid != cid_ || header.type != kStream) return nullptr;
    Connection* c = find(header);
    if (c == nullptr) {
        accept_or_refuse(header);
        return nullptr;
    }
    c->peer_room_ = header.buf_alloc;
    c->peer_taken_ = header.fwd_cnt;
    switch (header.op) {
        case response: c->up_ = true; break;
        case reset: c->reset_ = true; break;
        case shutdown: c->shut_ |= header.flags; break;
        case data: return c->over() ? nullptr : c;
        case credit_request: c->update_due_ = true; break;
        default: break;
    }
    return nullptr;
}

bool Vsock::receive(Packet& packet) {
    for (Used used; rx_.collect(used);) {
        const u32 number = static_cast<u32>(used.cookie);
        const Header& header = rx_headers_[number];
        if (used.written != sizeof(Header) + header.len) broken(Type::vsock, "a packet is not as long as it says");
        Connection* c = take_header(header);
        if (c != nullptr && header.len != 0) {
            packet = {c, number, buffers_ + u64{number} * buffer_bytes_, header.len};
            return true;
        }
        give_back(number);
    }
    return false;
}

void Vsock::give_back(u32 number) {
    const Buffer buffers[] = {{reinterpret_cast<u64>(&rx_headers_[number]), sizeof(Header), true},
                              {buffers_ + u64{number} * buffer_bytes_, buffer_bytes_, true}};
    if (!rx_.add(buffers, 2, number)) broken(Type::vsock, "a queue has less room than it said");
}

void Vsock::give_event_buffer(u32 number) {
    const Buffer buffer{reinterpret_cast<u64>(&event_ids_[number]), sizeof event_ids_[number], true};
    if (!events_.add(&buffer, 1, number)) broken(Type::vsock, "a queue has less room than it said");
}

// A transport reset ends all connections but not the listening port, and the CID may have changed
// (5.10.6.7). The buffer goes back after that, because the device may take it for the sign that new
// connections are possible.
void Vsock::take_events() {
    for (Used used; events_.collect(used);) {
        const u32 number = static_cast<u32>(used.cookie);
        if (used.written < sizeof event_ids_[number]) broken(Type::vsock, "an event without a number");
        if (observe(event_ids_[number]) == kTransportReset) {
            cid_ = device_.config64(kCidAt);
            for (Connection& c : connections_) c.reset_ = true;
            was_reset_ = true;
        }
        give_event_buffer(number);
        events_.ask_for_interrupt(1);
    }
    events_.submit();
}

void Vsock::work() {
    for (Used used; tx_.collect(used);) {
        const u32 slot = static_cast<u32>(used.cookie);
        if (owners_[slot] != nullptr) owners_[slot]->on_their_way_ -= tx_headers_[slot].len;
        free_[free_count_++] = slot;
    }
    take_events();
    for (Connection& c : connections_)
        if (c.in_use_) say_what_is_due(c);
    tx_.submit();
    rx_.submit();
}

bool Vsock::take_reset() {
    const bool was_reset = was_reset_;
    was_reset_ = false;
    return was_reset;
}

bool Vsock::ask_for_interrupt(bool room) {
    return rx_.ask_for_interrupt(1) && events_.ask_for_interrupt(1) &&
           (!room || tx_.outstanding() == 0 || tx_.ask_for_interrupt(1));
}

void Vsock::ask_for_none() {
    rx_.ask_for_none();
    tx_.ask_for_none();
}

void Vsock::wait(bool room) {
    for (;;) {
        const u64 seen = self().events;
        device_.acknowledge();
        if (!ask_for_interrupt(room)) break;
        halt(seen);
    }
    ask_for_none();
}

}  // namespace snapvm::guest::virtio
