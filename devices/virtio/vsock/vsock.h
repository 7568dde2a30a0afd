// SPDX-License-Identifier: Apache-2.0
// Streams between guest and host. Source: virtio 1.2, 5.10 "Socket Device". The host's end is unix
// sockets, as with Firecracker. A host program that connects to the machine's socket and sends
// "CONNECT <port>" reaches this port of the guest and is answered "OK <own port>". A connection of
// the guest to port P of the host reaches the socket with "_P" appended to its name.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "devices/config/device_config.h"
#include "devices/virtio/stateful_device.h"
#include "devices/virtio/vsock/connection.h"
#include "devices/virtio/vsock/greeting.h"
#include "devices/virtio/vsock/packet.h"
#include "devices/virtio/vsock/reset_event.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::virtio {

/// What the guest can observe of it. Untrusted until Vsock::check has checked it. Connections are
/// not saved, because their other ends are not in the snapshot: a restored guest is told that they
/// are gone.
struct VsockStateV1 {
    std::uint32_t next_host_port = 1U << 30;  ///< saved, because the guest remembers ports that were used

    void encode(Encoder& out) const { out.u32(next_host_port); }
    static VsockStateV1 decode(Decoder& in) { return {in.u32()}; }
};

/// A virtio socket device.
class Vsock final : public StatefulDevice<VsockStateV1> {
public:
    /// The most connections of one guest at a time, including host programs that have not named a
    /// port yet. Fewer if the process may not have twice that number of open files.
    static constexpr std::size_t kMaxConnections = 1024;

    /// Listens at once. Fails with usage if the path is too long, and as Listener::open does.
    static Result<std::unique_ptr<Vsock>> create(const VsockConfig& config);

    [[nodiscard]] DeviceType type() const override { return DeviceType::vsock; }
    [[nodiscard]] std::uint64_t features() const override { return 1; }  // VIRTIO_VSOCK_F_STREAM
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Transport& transport) override;
    Status notified(std::size_t queue) override;
    void reset() override;
    Status restored() override;

    /// Returns the number of connections, of closed ones with unsent bytes, and of waiting host
    /// programs.
    [[nodiscard]] std::size_t connections() const { return connections_.size() + draining_.size() + greetings_.size(); }

private:
    using ConnectionPtr = std::shared_ptr<vsock::Connection>;
    static Result<UniqueFd> spare_file();
    Vsock(std::uint64_t cid, Listener listener, UniqueFd spare);
    [[nodiscard]] Status check(const VsockStateV1& state) const override;
    void adopted() noexcept override;

    // Packets from and to the driver: vsock.cc
    Status take_packets();
    Status take_packet(const Chain& chain);
    void refuse(const vsock::Header& header);
    [[nodiscard]] bool connect_host(const vsock::Header& header);
    Status send_packets();
    Status fill_buffers();
    std::optional<vsock::Header> next_packet(std::size_t room);
    void deliver();

    // Connections and host programs: table.cc
    void add(const ConnectionPtr& connection);
    void follow_up(const ConnectionPtr& connection);
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
    const std::size_t max_connections_;
    Listener listener_;
    /// Closed for a moment to turn a host program away if there are no free descriptors. It is an
    /// open file of its own, which helps if it is the system that has no more.
    UniqueFd spare_;
    Transport* transport_ = nullptr;
    std::optional<vsock::ResetEvent> reset_event_;
    std::unique_ptr<Transport::Watch> listening_;

    std::map<vsock::Ports, ConnectionPtr> connections_;
    std::set<ConnectionPtr> draining_;  ///< the guest is done with them; their last bytes are still being sent
    std::set<std::shared_ptr<vsock::Greeting>> greetings_;
    std::deque<ConnectionPtr> ready_;  ///< connections with something to send, in turn
    std::deque<vsock::Header> refusals_;  ///< resets to send that belong to no connection
    Chain chain_;
    std::vector<std::byte> payload_;
};

}  // namespace snapvm::virtio
