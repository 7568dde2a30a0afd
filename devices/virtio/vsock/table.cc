// SPDX-License-Identifier: Apache-2.0
// The host's side: host programs that connect, and the life of connections.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "devices/virtio/vsock/vsock.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {

using namespace vsock;

void Vsock::add(const ConnectionPtr& connection) {
    connections_.emplace(connection->ports(), connection);
    follow_up(connection);
}

// Must follow every change of a connection: closes it, queues it for sending, or watches its
// socket.
void Vsock::follow_up(const ConnectionPtr& connection) {
    if (connection->gone) {
        return;
    }
    if (connection->broken()) {
        close(connection, true);
        return;
    }
    if (connection->finished()) {
        // The guest gets its reset at once, because it waits for that in close(2). It need not wait
        // for a slow reader of its last bytes.
        const bool unsent = connection->has_unsent();
        close(connection, true);
        if (unsent) {
            connection->gone = false;
            draining_.insert(connection);
            watch(connection);
        }
        return;
    }
    if (connection->wants_to_send()) {
        if (!connection->queued) {
            connection->queued = true;
            ready_.push_back(connection);
        }
        return;  // it is watched again when its turn is over, or by send_packets()
    }
    watch(connection);
}

void Vsock::watch(const ConnectionPtr& connection) {
    const auto wanted = connection->wanted_events();
    if (wanted == connection->watched) {
        return;
    }
    connection->watch.reset();
    connection->watched.reset();
    if (!wanted) {
        return;
    }
    auto watch =
        transport_->watch(EventLoop::Kind::intake, connection->fd(), *wanted, [this, weak = std::weak_ptr(connection)] {
            if (const ConnectionPtr self = weak.lock()) {
                look(self);
            }
        });
    if (!watch) {
        close(connection, true);
        return;
    }
    connection->watch = *std::move(watch);
    connection->watched = wanted;
}

void Vsock::look(const ConnectionPtr& connection) {
    connection->look();
    if (draining_.contains(connection)) {
        if (connection->has_unsent() && !connection->broken()) {
            watch(connection);
        } else {
            connection->gone = true;
            connection->watch.reset();
            draining_.erase(connection);
        }
        return;
    }
    follow_up(connection);
    deliver();
}

// Removes a connection from the tables. It also leaves the list of those that wait for buffers,
// where a guest that gives none would keep it and its socket. With `tell` the guest gets a reset,
// if it knows the connection.
void Vsock::close(const ConnectionPtr& connection, bool tell) {
    if (std::exchange(connection->gone, true)) {
        return;
    }
    connection->watch.reset();
    connection->watched.reset();
    draining_.erase(connection);
    if (std::exchange(connection->queued, false)) {
        std::erase(ready_, connection);
    }
    const Ports ports = connection->ports();
    if (const auto found = connections_.find(ports); found != connections_.end() && found->second == connection) {
        connections_.erase(found);
        if (tell && connection->known_to_guest()) {
            refuse({.dst_cid = kHostCid, .src_port = ports.guest, .dst_port = ports.host});
        }
    }
}

void Vsock::drop_all() {
    for (const auto& [ports, connection] : connections_) {
        connection->gone = true;
        connection->watch.reset();
    }
    connections_.clear();
    ready_.clear();
    refusals_.clear();
    greetings_.clear();
    // draining_ stays: the last bytes of these connections are still sent.
}

// A connection that only waits for the guest's agreement to its end is closed if there is no room.
bool Vsock::make_room() {
    if (connections() < max_connections_) {
        return true;
    }
    const auto over = std::ranges::find_if(connections_, [](const auto& entry) { return entry.second->closing(); });
    if (over == connections_.end()) {
        return false;
    }
    close(ConnectionPtr(over->second), true);
    return true;
}

Status Vsock::listen() {
    listening_ = TRY(transport_->watch(EventLoop::Kind::intake, listener_.fd(), EPOLLIN, [this] { accept(); }));
    return {};
}

void Vsock::accept() {
    UniqueFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
        if (errno == EMFILE || errno == ENFILE) {
            // A connection left in the listen queue would be reported without end.
            spare_.reset();
            UniqueFd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
            if (auto spare = spare_file()) {
                spare_ = *std::move(spare);
            }
        }
        return;
    }
    if (!make_room()) {
        return;
    }
    const auto greeting = std::make_shared<Greeting>(std::move(socket));
    auto watch =
        transport_->watch(EventLoop::Kind::intake, greeting->fd(), EPOLLIN, [this, weak = std::weak_ptr(greeting)] {
            if (const auto self = weak.lock()) {
                greet(self);
            }
        });
    if (watch) {
        greeting->watch = *std::move(watch);
        greetings_.insert(greeting);
    }
}

void Vsock::greet(const std::shared_ptr<Greeting>& greeting) {
    const Greeting::State state = greeting->read();
    if (state == Greeting::State::incomplete) {
        return;
    }
    greetings_.erase(greeting);
    if (state == Greeting::State::complete) {
        connect_guest(*greeting);
    }
}

void Vsock::connect_guest(Greeting& greeting) {
    const auto host_port = free_host_port(greeting.port());
    if (!host_port) {
        return;
    }
    add(std::make_shared<Connection>(Ports{greeting.port(), *host_port}, greeting.take_socket(),
                                     Connection::Begun::by_host));
    deliver();
}

std::optional<std::uint32_t> Vsock::free_host_port(std::uint32_t guest_port) {
    constexpr std::uint32_t kFirst = VsockStateV1{}.next_host_port;
    for (std::size_t i = 0; i <= kMaxConnections; ++i) {
        const std::uint32_t port = state_.next_host_port;
        state_.next_host_port = port == 0xFFFFFFFE ? kFirst : port + 1;  // 0xFFFFFFFF means any port
        if (!connections_.contains({guest_port, port})) {
            return port;
        }
    }
    return std::nullopt;
}

}  // namespace snapvm::virtio
