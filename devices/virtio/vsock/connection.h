// SPDX-License-Identifier: Apache-2.0
// One stream between a port of the guest's and a unix socket of the host's: its state, its credit, and what of it waits.
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

/// Knows no queues: packets come in by `take`, and go out by `next` when the device has room for one. Its socket never blocks.
class Connection {
public:
    /// What the guest may send before the host's program has read it.
    static constexpr std::uint32_t kBuffer = 128 << 10;

    enum class Begun : std::uint8_t { by_guest, by_host };
    /// By the guest: `asked` is its request. By the host: the guest is asked.
    Connection(Ports ports, UniqueFd socket, Begun begun, const Header& asked = {});
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection() { watch.reset(); }  // before the socket

    [[nodiscard]] Ports ports() const { return ports_; }
    [[nodiscard]] int fd() const { return socket_.get(); }

    /// A packet of the guest's; `payload` is that of `data`. False: against the rules, or the host's side is broken.
    [[nodiscard]] bool take(const Header& header, std::span<const std::byte> payload);
    /// The next packet for the guest, its payload (`len` bytes) in `room`; nothing where nothing waits after all.
    std::optional<Header> next(std::span<std::byte> room);
    /// Whether `next` may have something.
    [[nodiscard]] bool wants_to_send() const;
    /// Its socket has become ready for something of `wanted_events`.
    void look();
    /// What its socket is to be watched for; nothing where it is not to be watched at all, since a hang-up would always be ready.
    [[nodiscard]] std::optional<std::uint32_t> wanted_events() const;

    /// Its socket failed, or its client gave up: the guest is to be told by a reset.
    [[nodiscard]] bool broken() const { return broken_; }
    /// The guest has asked for it, or was asked.
    [[nodiscard]] bool known_to_guest() const { return !request_waits_; }
    /// The guest has shut down both directions.
    [[nodiscard]] bool finished() const { return guest_shut_ == kNeither; }
    /// The host has closed its end, and the guest was told: it only has to agree.
    [[nodiscard]] bool closing() const { return !socket_.valid(); }
    /// Bytes of the guest's that its socket has not taken yet.
    [[nodiscard]] bool has_unsent() const { return unsent_at_ < unsent_.size(); }

    // The device's notes.
    std::unique_ptr<Port::Watch> watch;
    std::optional<std::uint32_t> watched;  ///< events, while there is a watch
    bool queued = false;  ///< waits for its turn to send
    bool gone = false;  ///< in none of the device's tables any more

private:
    void note_credit(const Header& header);
    [[nodiscard]] std::uint32_t credit() const;
    [[nodiscard]] bool may_read() const { return readable_ && established_ && !host_ended_ && (guest_shut_ & kNoReceive) == 0; }
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

    std::vector<std::byte> unsent_;  ///< from unsent_at_ on
    std::size_t unsent_at_ = 0;
    std::uint32_t guest_shut_ = 0;  ///< flags of the guest's `shutdown`s

    bool readable_ = false;  ///< the socket may have bytes for the guest
    bool host_ended_ = false;  ///< and will not have more
    std::uint32_t host_shut_ = 0;  ///< flags to tell the guest, or told

    // Credit, 5.10.6.3. All counts wrap.
    std::uint32_t received_ = 0;
    std::uint32_t forwarded_ = 0;
    std::uint32_t told_forwarded_ = 0;
    std::uint32_t sent_ = 0;
    std::uint32_t guest_buf_alloc_ = 0;
    std::uint32_t guest_fwd_cnt_ = 0;
    bool credit_asked_ = false;

    // Packets that wait.
    bool request_waits_;
    bool response_waits_;
    bool shutdown_waits_ = false;
    bool update_waits_ = false;
};

}  // namespace snapvm::virtio::vsock
