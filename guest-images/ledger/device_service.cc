// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/device_service.h"

#include <initializer_list>

#include "guest-images/ledger/layout.h"
#include "guest-images/ledger/serial.h"
#include "guest-images/ledger/virtio/balloon.h"
#include "guest-images/ledger/virtio/console.h"
#include "guest-images/ledger/virtio/net.h"
#include "guest-images/ledger/virtio/vsock.h"

namespace snapvm::guest {
namespace {

using ledger::kPageBytes;

// The balloon and the memory that it may take. Each page that the balloon does not hold contains a
// word, made from the page's address and the number of times that the page has been taken into use.
class LentMemory {
public:
    void start(const Options& options) {
        pages_ = options.balloon / kPageBytes;
        base_ = take_memory(options.balloon, "balloon does not fit the memory in one piece");
        uses_ = reinterpret_cast<u32*>(take_memory(pages_ * sizeof(u32), "no memory for the balloon's books"));
        use(0, pages_);
        there_ = balloon_.start(options.ring_features, base_, options.balloon, false);
    }
    void serve() {
        if (!there_) return;
        const u64 before = balloon_.held();
        balloon_.serve();
        use(balloon_.held(), before);
    }
    void check() const {
        for (u64 page = balloon_.held(); page < pages_; ++page)
            if (word(page) != expected(page))
                virtio::broken(virtio::Type::balloon, "memory that it does not hold has changed");
    }

private:
    volatile u64& word(u64 page) const { return *reinterpret_cast<volatile u64*>(base_ + page * kPageBytes); }
    u64 expected(u64 page) const { return ledger::mix(base_ + page * kPageBytes) + uses_[page]; }
    void use(u64 first, u64 end) {
        for (u64 page = first; page < end; ++page) {
            ++uses_[page];
            word(page) = expected(page);
        }
    }

    virtio::Balloon balloon_;
    bool there_ = false;
    u64 base_ = 0, pages_ = 0;
    u32* uses_ = nullptr;
};

// Sends back what comes on connections that the host opens, one piece of each connection at a time.
// A restore ends all connections; the host can open others.
class EchoStreams {
public:
    bool start(u64 ring_features) {
        there_ = vsock_.start(ring_features, kPacketBytes, kEchoPort);
        if (there_) rooms_ = take_memory(virtio::Vsock::kMostConnections * kRoom, "no memory for what streams bring");
        return there_;
    }
    void serve() {
        if (!there_) return;
        do {
            for (virtio::Vsock::Packet packet; vsock_.receive(packet); vsock_.give_back(packet.number)) keep(packet);
            vsock_.work();
            for (u32 i = 0; i < virtio::Vsock::kMostConnections; ++i)
                if (vsock_.connection(i).in_use()) send_back(vsock_.connection(i), kept_[i], rooms_ + i * kRoom);
            vsock_.work();
        } while (!vsock_.ask_for_interrupt(true));
    }

private:
    static constexpr u32 kEchoPort = 7;  // TCP's echo port
    static constexpr u32 kPacketBytes = 4096;
    static constexpr u64 kRoom = virtio::Vsock::kRoom;  // the peer may not send more before some bytes have gone back
    struct Kept {
        u64 in, out;  // bytes since the connection was made
        u32 sending;
    };

    void keep(const virtio::Vsock::Packet& packet) {
        const u32 number = vsock_.number_of(*packet.connection);
        Kept& kept = kept_[number];
        const u8* from = reinterpret_cast<const u8*>(packet.address);
        if (packet.size > kRoom - (kept.in - kept.out))
            virtio::broken(virtio::Type::vsock, "more came than there was credit for");
        for (u32 i = 0; i < packet.size; ++i)
            *reinterpret_cast<u8*>(rooms_ + number * kRoom + kept.in++ % kRoom) = from[i];
    }

    void send_back(virtio::Vsock::Connection& connection, Kept& kept, u64 room) {
        if (kept.sending != 0 && connection.on_their_way() == 0) {
            kept.out += kept.sending;
            vsock_.take(connection, kept.sending);
            kept.sending = 0;
        }
        if (connection.over() || (connection.peer_is_done() && kept.in == kept.out)) {
            vsock_.close(connection);
            kept = {};
            return;
        }
        if (kept.sending != 0) return;
        u64 size = kept.in - kept.out;
        const u64 at = kept.out % kRoom;
        for (const u64 most : {kRoom - at, u64{connection.credit()}, u64{virtio::Vsock::kMostPayload}})
            if (size > most) size = most;
        if (size != 0 && vsock_.send(connection, room + at, static_cast<u32>(size)))
            kept.sending = static_cast<u32>(size);
    }

    virtio::Vsock vsock_;
    bool there_ = false;
    u64 rooms_ = 0;
    Kept kept_[virtio::Vsock::kMostConnections] = {};
};

// Sends each piece that came back out of its buffer. If `change` returns false, only gives the
// buffer back.
template <typename Change>
void send_back(virtio::Duplex& duplex, Change change) {
    do {
        for (virtio::Duplex::Piece piece; duplex.receive(piece);) {
            if (change(piece))
                duplex.send_back(piece);
            else
                duplex.give_back(piece.number);
        }
        duplex.work();
    } while (!duplex.ask_for_interrupt());
}

// Swaps the addresses of a frame of type 0x88B5 (local experiments). Returns false for all other
// types.
bool turn_round(const virtio::Duplex::Piece& piece, const u8 (&mac)[virtio::Net::kMacBytes]) {
    constexpr u32 kDestination = virtio::Net::kHeaderBytes, kSource = kDestination + sizeof mac,
                  kType = kSource + sizeof mac;
    if (piece.size < kType + 2) virtio::broken(virtio::Type::net, "a frame without addresses");
    u8* bytes = reinterpret_cast<u8*>(piece.address);
    if (bytes[kType] != 0x88 || bytes[kType + 1] != 0xb5) return false;
    __builtin_memset(bytes, 0, virtio::Net::kHeaderBytes);
    __builtin_memcpy(bytes + kDestination, bytes + kSource, sizeof mac);
    __builtin_memcpy(bytes + kSource, mac, sizeof mac);
    return true;
}

constinit LentMemory lent;
constinit EchoStreams streams;
constinit virtio::Console console;
constinit virtio::Net net;
bool has_console = false, has_net = false;

}  // namespace

void start_devices(const Options& options) {
    if (options.balloon != 0) lent.start(options);
    if (!options.echo) return;
    has_console = console.start(options.ring_features);
    has_net = net.start(virtio::Net::kAnnounces | options.ring_features, true);
    Line()
        .text("LEDGER ECHO console=")
        .number(has_console)
        .text(" net=")
        .number(has_net)
        .text(" vsock=")
        .number(streams.start(options.ring_features))
        .print();
}

void serve_devices() {
    lent.serve();
    if (has_console) send_back(console.port(), [](const virtio::Duplex::Piece&) { return true; });
    if (has_net) {
        net.serve();
        send_back(net.frames(), [](const virtio::Duplex::Piece& piece) { return turn_round(piece, net.mac()); });
    }
    streams.serve();
}

void check_devices() { lent.check(); }

}  // namespace snapvm::guest
