// SPDX-License-Identifier: Apache-2.0
// The host's side: who connects, and what becomes of connections.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "devices/virtio/vsock/vsock.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {

using namespace vsock;

void Vsock::add(const ConnectionPtr& connection) {
    connections_.emplace(connection->ports(), connection);
    settle(connection);
}

// After anything has happened to a connection: what is to be done about it, and for what to wait.
void Vsock::settle(const ConnectionPtr& connection) {
    if (connection->gone) {
        return;
    }
    if (connection->broken()) {
        close(connection, true);
        return;
    }
    if (connection->finished()) {
        // The guest is told at once: it waits for that in close(2), but need not for a slow reader of its last bytes.
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
        return;  // its turn comes before it waits again, or send_packets sees to it
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
    auto watch = port_->watch(EventLoop::Kind::intake, connection->fd(), *wanted, [this, weak = std::weak_ptr(connection)] {
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
    settle(connection);
    deliver();
}

// Out of the tables, and of the queue for buffers, where a guest that gives none would keep it, socket and all; with `tell`, the guest gets a
// reset, if it has heard of it.
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
    // What the driver is done with goes out all the same.
}

// One that only waits for the guest's agreement to its end makes way.
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
    listening_ = TRY(port_->watch(EventLoop::Kind::intake, listener_.fd(), EPOLLIN, [this] { accept(); }));
    return {};
}

void Vsock::accept() {
    UniqueFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
        if (errno == EMFILE || errno == ENFILE) {
            // Left in its queue it would wake us for ever.
            spare_.reset();
            UniqueFd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
            spare_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        }
        return;
    }
    if (!make_room()) {
        return;
    }
    const auto greeting = std::make_shared<Greeting>(std::move(socket));
    auto watch = port_->watch(EventLoop::Kind::intake, greeting->fd(), EPOLLIN, [this, weak = std::weak_ptr(greeting)] {
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
    add(std::make_shared<Connection>(Ports{greeting.port(), *host_port}, greeting.take_socket(), Connection::Begun::by_host));
    deliver();
}

std::optional<std::uint32_t> Vsock::free_host_port(std::uint32_t guest_port) {
    constexpr std::uint32_t kFirst = VsockStateV1{}.next_host_port;
    for (std::size_t i = 0; i <= kMaxConnections; ++i) {
        const std::uint32_t port = state_.next_host_port;
        state_.next_host_port = port == 0xFFFFFFFE ? kFirst : port + 1;  // the last one means "any"
        if (!connections_.contains({guest_port, port})) {
            return port;
        }
    }
    return std::nullopt;
}

}  // namespace snapvm::virtio
