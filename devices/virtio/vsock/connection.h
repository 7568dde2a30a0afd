// SPDX-License-Identifier: Apache-2.0
// One stream between a port of the guest and a unix socket of the host: its state, its credit, and
// its waiting bytes and packets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/vsock/packet.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio::vsock {

/// A connection. It does not know the queues: packets of the guest come in by take(), and packets
/// for the guest are fetched by next(). Its socket never blocks.
class Connection {
public:
    /// The most bytes that the guest may send before the host's program has read them.
    static constexpr std::uint32_t kBuffer = 128 << 10;

    enum class Begun : std::uint8_t { by_guest, by_host };
    /// If begun by the guest, `asked` is its request. If begun by the host, a request is sent to
    /// the guest.
    Connection(Ports ports, UniqueFd socket, Begun begun, const Header& asked = {});
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection() { watch.reset(); }  // before the socket

    [[nodiscard]] Ports ports() const { return ports_; }
    [[nodiscard]] int fd() const { return socket_.get(); }

    /// Handles a packet of the guest; `payload` is that of op `data`. Returns false if the packet
    /// breaks the protocol or the socket has failed.
    [[nodiscard]] bool take(const Header& header, std::span<const std::byte> payload);
    /// Returns the next packet for the guest, and puts its payload (`len` bytes) into `room`;
    /// nothing if there is none after all.
    std::optional<Header> next(std::span<std::byte> room);
    /// Whether next() may return a packet.
    [[nodiscard]] bool wants_to_send() const;
    /// Handles an event of the socket that wanted_events() asked for.
    void look();
    /// Returns the events that the socket is to be watched for. Returns nothing if it must not be
    /// watched at all, because a hang-up would be reported without end.
    [[nodiscard]] std::optional<std::uint32_t> wanted_events() const;

    /// Whether the socket has failed or the host's program has given up: the guest must get a
    /// reset.
    [[nodiscard]] bool broken() const { return broken_; }
    /// Whether the guest has sent the request or was sent one.
    [[nodiscard]] bool known_to_guest() const { return !request_waits_; }
    /// Whether the guest has shut down both directions.
    [[nodiscard]] bool finished() const { return guest_shut_ == kNeither; }
    /// Whether the host's end is closed and the guest was told so. Only the guest's agreement is
    /// missing.
    [[nodiscard]] bool closing() const { return !socket_.valid(); }
    /// Whether bytes of the guest wait for room in the socket.
    [[nodiscard]] bool has_unsent() const { return unsent_at_ < unsent_.size(); }

    // Set by the device.
    std::unique_ptr<Transport::Watch> watch;
    std::optional<std::uint32_t> watched;  ///< events, if there is a watch
    bool queued = false;  ///< in the device's list of connections with something to send
    bool gone = false;  ///< not in the device's tables any more

private:
    void note_credit(const Header& header);
    [[nodiscard]] std::uint32_t credit() const;
    [[nodiscard]] bool may_read() const {
        return readable_ && established_ && !host_ended_ && (guest_shut_ & kNoReceive) == 0;
    }
    [[nodiscard]] bool store(std::span<const std::byte> payload);
    [[nodiscard]] bool answer_host();
    void shut_by_guest(std::uint32_t flags);
    std::size_t send(std::span<const std::byte> bytes);
    void send_unsent();
    void forwarded(std::size_t bytes);
    std::uint32_t read(std::span<std::byte> room);
    void host_ended();
    void shut_by_host(std::uint32_t flags);
    [[nodiscard]] bool hung_up() const;
    Header header(Op op);

    Ports ports_;
    UniqueFd socket_;
    bool established_;
    bool broken_ = false;

    std::vector<std::byte> unsent_;  ///< valid from unsent_at_ on
    std::size_t unsent_at_ = 0;
    std::uint32_t guest_shut_ = 0;  ///< flags of the `shutdown` packets of the guest

    bool readable_ = false;  ///< the socket may have bytes for the guest
    bool host_ended_ = false;  ///< the socket will have no more bytes
    std::uint32_t host_shut_ = 0;  ///< flags of the `shutdown` packet to the guest

    // Credit, 5.10.6.3. All counters wrap around.
    std::uint32_t received_ = 0;
    std::uint32_t forwarded_ = 0;
    std::uint32_t told_forwarded_ = 0;
    std::uint32_t sent_ = 0;
    std::uint32_t guest_buf_alloc_ = 0;
    std::uint32_t guest_fwd_cnt_ = 0;
    bool credit_asked_ = false;

    // Packets to send.
    bool request_waits_;
    bool response_waits_;
    bool shutdown_waits_ = false;
    bool update_waits_ = false;
};

}  // namespace snapvm::virtio::vsock
