// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/vsock/connection.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>
#include <utility>

namespace snapvm::virtio::vsock {

Connection::Connection(Ports ports, UniqueFd socket, Begun begun, const Header& asked)
    : ports_(ports),
      socket_(std::move(socket)),
      established_(begun == Begun::by_guest),
      request_waits_(begun == Begun::by_host),
      response_waits_(begun == Begun::by_guest) {
    note_credit(asked);
}

void Connection::note_credit(const Header& header) {
    guest_buf_alloc_ = header.buf_alloc;
    guest_fwd_cnt_ = header.fwd_cnt;
    if (credit() > 0) {
        credit_asked_ = false;
    }
}

// If the guest claims to have taken more bytes than it was sent, this results in no credit.
std::uint32_t Connection::credit() const {
    const std::uint32_t held = sent_ - guest_fwd_cnt_;
    return held < guest_buf_alloc_ ? guest_buf_alloc_ - held : 0;
}

bool Connection::take(const Header& header, std::span<const std::byte> payload) {
    note_credit(header);
    switch (header.op) {
        case Op::response: return !established_ && !request_waits_ && answer_host();
        case Op::data: return store(payload);
        case Op::shutdown: shut_by_guest(header.flags & kNeither); return !broken_;
        case Op::credit_request: update_waits_ = true; return true;
        case Op::credit_update: return true;
        default: return false;
    }
}

// Tells the host's program that the guest has accepted, and the host port of the connection.
bool Connection::answer_host() {
    established_ = true;
    const std::string line = "OK " + std::to_string(ports_.host) + "\n";
    return send(std::as_bytes(std::span(line))) == line.size();  // a new socket has room for its first bytes
}

bool Connection::store(std::span<const std::byte> payload) {
    if (!established_ || closing() || (guest_shut_ & kNoSend) != 0 ||
        payload.size() > kBuffer - (received_ - forwarded_)) {
        return false;
    }
    received_ += static_cast<std::uint32_t>(payload.size());
    if (!has_unsent()) {
        const std::size_t sent = send(payload);
        forwarded(sent);
        payload = payload.subspan(sent);
    }
    unsent_.insert(unsent_.end(), payload.begin(), payload.end());
    return !broken_;
}

void Connection::shut_by_guest(std::uint32_t flags) {
    guest_shut_ |= flags;
    if (closing()) {
        return;
    }
    if ((flags & kNoReceive) != 0) {
        (void)::shutdown(socket_.get(), SHUT_RD);
    }
    if ((flags & kNoSend) != 0 && !has_unsent()) {
        (void)::shutdown(socket_.get(), SHUT_WR);
    }
}

// Sends what the socket takes now. If the host's program does not read any more, drops the bytes
// and asks the guest to send no more. This is no reset: what the program has sent must still be
// delivered.
std::size_t Connection::send(std::span<const std::byte> bytes) {
    const ssize_t sent =
        bytes.empty() ? 0 : ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
        return static_cast<std::size_t>(sent);
    }
    if (errno == EPIPE) {
        shut_by_host(kNoReceive);
        return bytes.size();
    }
    broken_ = broken_ || (errno != EAGAIN && errno != EINTR);
    return 0;
}

void Connection::shut_by_host(std::uint32_t flags) {
    shutdown_waits_ = shutdown_waits_ || (host_shut_ | flags) != host_shut_;
    host_shut_ |= flags;
}

void Connection::send_unsent() {
    const std::size_t sent = send(std::span(unsent_).subspan(unsent_at_));
    unsent_at_ += sent;
    forwarded(sent);
    if (!has_unsent()) {
        unsent_ = {};  // frees the memory: there may be many connections, and most are idle
        unsent_at_ = 0;
        if ((guest_shut_ & kNoSend) != 0) {
            (void)::shutdown(socket_.get(), SHUT_WR);
        }
    } else if (unsent_at_ > kBuffer) {  // keeps at most twice kBuffer
        unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(std::exchange(unsent_at_, 0)));
    }
}

// Sends a credit update once the guest must assume that half of the buffer is full. One for each
// packet would cost more than it gains.
void Connection::forwarded(std::size_t bytes) {
    forwarded_ += static_cast<std::uint32_t>(bytes);
    if (forwarded_ != told_forwarded_ && received_ - told_forwarded_ >= kBuffer / 2) {
        update_waits_ = true;
    }
}

void Connection::look() {
    if (has_unsent()) {
        send_unsent();
    }
    if (!host_ended_) {
        readable_ = established_;
        if (!established_ && hung_up()) {
            broken_ = true;  // the host's program gave up before the guest answered
        }
    } else if (hung_up()) {
        host_ended();
    }
}

bool Connection::hung_up() const {
    pollfd entry{socket_.get(), 0, 0};
    return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

// No more bytes for the guest. Finds out whether the socket is closed or only this direction is
// shut down.
void Connection::host_ended() {
    host_ended_ = true;
    readable_ = false;
    shut_by_host(hung_up() ? kNeither : kNoSend);
}

bool Connection::wants_to_send() const {
    return request_waits_ || response_waits_ || shutdown_waits_ || update_waits_ ||
           (may_read() && (credit() > 0 || !credit_asked_));
}

std::optional<Header> Connection::next(std::span<std::byte> room) {
    if (std::exchange(request_waits_, false)) {
        return header(Op::request);
    }
    if (std::exchange(response_waits_, false)) {
        return header(Op::response);
    }
    if (may_read() && credit() > 0 && !room.empty()) {
        if (const std::uint32_t size = read(room.first(std::min<std::size_t>(room.size(), credit()))); size > 0) {
            sent_ += size;
            Header data = header(Op::data);
            data.len = size;
            return data;
        }
    }
    if (std::exchange(shutdown_waits_, false)) {
        Header shutdown = header(Op::shutdown);
        shutdown.flags = host_shut_;
        if (host_shut_ == kNeither) {
            watch.reset();
            watched.reset();
            socket_.reset();
            unsent_ = {};  // the host's end is closed
            unsent_at_ = 0;
        }
        return shutdown;
    }
    if (may_read() && credit() == 0 && !std::exchange(credit_asked_, true)) {
        return header(Op::credit_request);
    }
    if (update_waits_) {
        return header(Op::credit_update);
    }
    return std::nullopt;
}

std::uint32_t Connection::read(std::span<std::byte> room) {
    const ssize_t got = ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (got > 0) {
        // Fewer bytes than asked for: that is most likely all; if not, the watch reports it at
        // once.
        readable_ = static_cast<std::size_t>(got) == room.size();
        return static_cast<std::uint32_t>(got);
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        readable_ = false;
    } else {
        host_ended();
    }
    return 0;
}

std::optional<std::uint32_t> Connection::wanted_events() const {
    if (closing() || gone) {
        return std::nullopt;
    }
    std::uint32_t events = has_unsent() ? std::uint32_t{EPOLLOUT} : 0;
    if (established_ && !host_ended_ && !readable_ && (guest_shut_ & kNoReceive) == 0) {
        events |= EPOLLIN;
    }
    // epoll reports a hang-up whatever events it is asked for. If a hang-up would change nothing,
    // the socket is not watched.
    const bool hang_up_matters = !established_ || (host_ended_ && host_shut_ != kNeither);
    if (events == 0 && !hang_up_matters) {
        return std::nullopt;
    }
    return events;
}

Header Connection::header(Op op) {
    // Every packet carries the credit.
    told_forwarded_ = forwarded_;
    update_waits_ = false;
    return {.src_cid = kHostCid,
            .src_port = ports_.host,
            .dst_port = ports_.guest,
            .op = op,
            .buf_alloc = kBuffer,
            .fwd_cnt = forwarded_};
}

}  // namespace snapvm::virtio::vsock
