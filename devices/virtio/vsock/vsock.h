// SPDX-License-Identifier: Apache-2.0
// Streams between guest and host. Source: virtio 1.2, 5.10 "Socket Device". The host's end is unix sockets, as Firecracker has them: who
// connects to the machine's and says "CONNECT <port>" reaches that port of the guest's and is answered "OK <own port>"; who connects to
// port P of the host in the guest reaches the socket with "_P" behind its name.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "devices/device_config.h"
#include "devices/virtio/device.h"
#include "devices/virtio/vsock/connection.h"
#include "devices/virtio/vsock/greeting.h"
#include "devices/virtio/vsock/packet.h"
#include "devices/virtio/vsock/reset_event.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::virtio {

/// What of it the guest can tell: untrusted until Vsock::create has checked it. Connections are not in it: their other ends are not in
/// a snapshot either, so a restored guest is told that they are gone.
struct VsockStateV1 {
    std::uint32_t next_host_port = 1U << 30;  ///< clients get other ports than those that the guest remembers

    void encode(Encoder& out) const { out.u32(next_host_port); }
    static VsockStateV1 decode(Decoder& in) { return {in.u32()}; }
};

class Vsock final : public Device {
public:
    /// All that one guest may have at once, clients that have not said yet what they want included; fewer where the process may not have twice
    /// as many open files.
    static constexpr std::size_t kMaxConnections = 1024;

    /// Listens at once: a socket that cannot be had is an error of the start.
    static Result<std::unique_ptr<Vsock>> create(const VsockConfig& config, const VsockStateV1& state = {});

    [[nodiscard]] DeviceType type() const override { return DeviceType::vsock; }
    [[nodiscard]] std::uint64_t features() const override { return 1; }  // VIRTIO_VSOCK_F_STREAM
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Port& port) override;
    Status notified(std::size_t queue) override;
    void reset() override;
    Status restored() override;
    void encode(Encoder& out) const override { state_.encode(out); }

    [[nodiscard]] std::size_t connections() const { return connections_.size() + draining_.size() + greetings_.size(); }

private:
    using ConnectionPtr = std::shared_ptr<vsock::Connection>;
    Vsock(const VsockConfig& config, Listener listener, UniqueFd spare, const VsockStateV1& state);

    // What the driver sends: vsock.cc
    Status take_packets();
    Status take_packet(const Chain& chain);
    void refuse(const vsock::Header& header);
    [[nodiscard]] bool connect_host(const vsock::Header& header);
    Status send_packets();
    Status fill_buffers();
    std::optional<vsock::Header> next_packet(std::size_t room);
    void deliver();

    // Connections: table.cc
    void add(const ConnectionPtr& connection);
    void settle(const ConnectionPtr& connection);
    void look(const ConnectionPtr& connection);
    void watch(const ConnectionPtr& connection);
    void close(const ConnectionPtr& connection, bool tell);
    void drop_all();
    [[nodiscard]] bool make_room();
    Status listen();
    void accept();
    void greet(const std::shared_ptr<vsock::Greeting>& greeting);
    void connect_guest(vsock::Greeting& greeting);
    std::optional<std::uint32_t> free_host_port(std::uint32_t guest_port);

    const std::uint64_t cid_;
    const std::string path_;
    const std::size_t max_connections_;
    VsockStateV1 state_;
    Listener listener_;
    UniqueFd spare_;  ///< given up for a moment to turn a client away when there are no descriptors left
    Port* port_ = nullptr;
    std::optional<vsock::ResetEvent> reset_event_;
    std::unique_ptr<Port::Watch> listening_;

    std::map<vsock::Ports, ConnectionPtr> connections_;
    std::set<ConnectionPtr> draining_;  ///< done as far as the guest goes; its last bytes are still on their way out
    std::set<std::shared_ptr<vsock::Greeting>> greetings_;
    std::deque<ConnectionPtr> ready_;  ///< in turn
    std::deque<vsock::Header> refusals_;  ///< resets to send, of no connection any more
    Chain chain_;
    std::vector<std::byte> payload_;
};

}  // namespace snapvm::virtio
