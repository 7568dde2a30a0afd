// SPDX-License-Identifier: Apache-2.0
// Streams to and from the host over a virtio socket device, a few at a time. Source: virtio 1.2,
// 5.10.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Vsock {
public:
    static constexpr u32 kRoom = 256 << 10;  // bytes that the peer may send before they are taken, as in Linux
    static constexpr u32 kMostPayload = 64 << 10;
    static constexpr u32 kMostConnections = 4;
    static constexpr u32 kSlots = 32;  // packets in flight to the device

    class Connection {
    public:
        [[nodiscard]] bool in_use() const { return in_use_; }
        [[nodiscard]] bool up() const { return up_; }
        // Nothing comes any more. What was sent before may still arrive at the peer.
        [[nodiscard]] bool peer_is_done() const { return over() || (shut_ & kNoSend) != 0; }
        // Nothing goes in either direction.
        [[nodiscard]] bool over() const { return reset_ || closing_ || shut_ == (kNoReceive | kNoSend); }
        // Returns the number of bytes that may be sent.
        [[nodiscard]] u32 credit() const { return peer_room_ - (sent_ - peer_taken_); }
        // Returns the number of bytes that were sent and that the device has not taken yet. They
        // may not change meanwhile.
        [[nodiscard]] u32 on_their_way() const { return on_their_way_; }

    private:
        friend class Vsock;
        static constexpr u32 kNoReceive = 1, kNoSend = 2;  // flags of the peer's shutdown
        bool in_use_, up_, reset_, closing_, response_due_, update_due_;
        u32 shut_;
        u32 own_port_, peer_port_;
        u32 sent_, peer_room_, peer_taken_;
        u32 taken_, told_;  // bytes taken; bytes that the peer knows to be taken
        u32 on_their_way_;
    };

    // Data that came on a connection. The buffer stays as it is until it is given back.
    struct Packet {
        Connection* connection;
        u32 number;
        u64 address;
        u32 size;
    };

    // Starts the device with receive buffers of `buffer_bytes`. Returns false if there is no such
    // device. Requests of the host to `listen_port` are accepted (0: none are).
    bool start(u64 ring_features, u32 buffer_bytes, u32 listen_port);
    // Requests a connection to that port of the host. Returns nullptr if there are too many
    // connections or no free slot. The connection is up or over once the host has answered.
    Connection* connect(u32 port);
    [[nodiscard]] Connection& connection(u32 number) { return connections_[number]; }
    [[nodiscard]] u32 number_of(const Connection& connection) const {
        return static_cast<u32>(&connection - connections_);
    }
    // Ends a connection in any state. The object may be used for another connection afterwards.
    void close(Connection& connection);

    // Gets the next packet with data, and handles all other packets that came. Returns false if
    // there is none.
    bool receive(Packet& packet);
    void give_back(u32 number);
    // Counts bytes as used, so that the peer may send the same number again.
    void take(Connection& connection, u32 bytes) { connection.taken_ += bytes; }
    // Returns false if there is no slot or no credit until something is collected.
    bool send(Connection& connection, u64 address, u32 size);
    // Handles what the device has taken and its events, sends the peers what is due, and shows the
    // device all of it.
    void work();
    // Returns whether a transport reset has ended connections since the last call, which means that
    // the machine was restored.
    bool take_reset();

    [[nodiscard]] u32 free_slots() const { return free_count_; }
    // Requests an interrupt when something comes and, with `room`, when the device takes something.
    // Returns false if one of them has happened already.
    bool ask_for_interrupt(bool room);
    void ask_for_none();
    // Sleeps until one of them has happened.
    void wait(bool room);
    [[nodiscard]] u64 notifications() const { return rx_.notifications() + tx_.notifications(); }

private:
    static constexpr u32 kMostBuffers = Queue::kMostEntries / 2;  // of two descriptors each, without indirect tables
    static constexpr u32 kEventBuffers = 4;
    enum Op : u16 {
        request = 1,
        response = 2,
        reset = 3,
        shutdown = 4,
        data = 5,
        credit_update = 6,
        credit_request = 7
    };
    // struct virtio_vsock_hdr, without padding.
    struct [[gnu::packed]] Header {
        u64 src_cid, dst_cid;
        u32 src_port, dst_port, len;
        u16 type, op;
        u32 flags, buf_alloc, fwd_cnt;
    };
    static_assert(sizeof(Header) == 44);

    bool put(Connection* owner, const Header& header, u64 payload);
    bool say(Connection& connection, Op op, u64 payload = 0, u32 size = 0);
    Connection* find(const Header& header);
    Connection* open(u32 own_port, u32 peer_port);
    Connection* take_header(const Header& header);
    void accept_or_refuse(const Header& header);
    void say_what_is_due(Connection& connection);
    void give_event_buffer(u32 number);
    void take_events();

    Device device_;
    Queue rx_, tx_, events_;
    u64 cid_ = 0;
    u32 listen_port_ = 0, next_port_ = 0;
    bool was_reset_ = false;
    Connection connections_[kMostConnections] = {};
    u64 buffers_ = 0;
    u32 buffer_bytes_ = 0, buffer_count_ = 0;
    Header rx_headers_[kMostBuffers] = {};
    Header tx_headers_[kSlots] = {};
    Connection* owners_[kSlots] = {};  // connections of the packets in flight; null: none
    u32 free_[kSlots] = {};
    u32 free_count_ = 0;
    u32 event_ids_[kEventBuffers] = {};
};

}  // namespace snapvm::guest::virtio
