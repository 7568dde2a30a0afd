// SPDX-License-Identifier: Apache-2.0
// Packets from and to the driver.
#include "devices/virtio/vsock/vsock.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/base/try.h"

namespace snapvm::virtio {

using namespace vsock;

namespace {

constexpr std::size_t kRx = 0;
constexpr std::size_t kTx = 1;
constexpr std::size_t kEvents = 2;
constexpr std::array<std::uint16_t, 3> kQueueSizes = {256, 256, 16};
constexpr std::size_t kMaxPayload = 64 << 10;
// The most resets that wait for a buffer. With more of them, the driver's packets wait: by
// 5.10.6.1.1 the driver provides buffers all the same.
constexpr std::size_t kMaxRefusals = 256;
constexpr std::uint32_t kFirstHostPort = 1U << 30;
constexpr std::size_t kLongestSuffix = 11;  // "_4294967295"

// A guest that opens all connections it can must leave files for the process, such as those of a
// snapshot.
std::size_t most_connections() {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? std::min<rlim_t>(Vsock::kMaxConnections, limit.rlim_cur / 2)
                                                   : Vsock::kMaxConnections;
}

}  // namespace

Vsock::Vsock(std::uint64_t cid, Listener listener, UniqueFd spare)
    : cid_(cid),
      max_connections_(most_connections()),
      listener_(std::move(listener)),
      spare_(std::move(spare)),
      payload_(std::max<std::size_t>(kMaxPayload, Connection::kBuffer)) {}

Result<UniqueFd> Vsock::spare_file() {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
    if (!fd.valid()) {
        return fail(Error::system("eventfd", "the vsock's spare descriptor", errno));
    }
    return fd;
}

Result<std::unique_ptr<Vsock>> Vsock::create(const VsockConfig& config) {
    const std::size_t longest = sizeof(sockaddr_un::sun_path) - 1 - kLongestSuffix;
    if (config.socket.size() > longest) {
        return fail(ErrorKind::usage,
                    "the vsock's socket path " + config.socket + " has " + std::to_string(config.socket.size()) +
                        " bytes, more than the " + std::to_string(longest) + " that leave room for \"_PORT\" behind it",
                    "choose a shorter path");
    }
    Listener listener = TRY(Listener::open(config.socket, "another path for the vsock's socket"));
    return std::unique_ptr<Vsock>(new Vsock(config.cid, std::move(listener), TRY(spare_file())));
}

Status Vsock::check(const VsockStateV1& state) const {
    if (state.next_host_port < kFirstHostPort) {
        return fail(ErrorKind::invalid, "virtio-vsock: its next port is not one of the host's");
    }
    return {};
}

std::span<const std::uint16_t> Vsock::queue_sizes() const { return kQueueSizes; }

// struct virtio_vsock_config: le64 guest_cid.
void Vsock::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const auto bytes = std::as_bytes(std::span(&cid_, 1));
    if (offset < bytes.size()) {
        const auto part = bytes.subspan(offset, std::min(data.size(), bytes.size() - offset));
        std::ranges::copy(part, data.begin());
    }
}

Status Vsock::attach(Transport& transport) {
    transport_ = &transport;
    reset_event_.emplace(transport, kEvents);
    return {};
}

Status Vsock::restored() {
    // Without a driver there were no connections.
    return transport_->queue(kEvents).ready() ? reset_event_->begin([this] { transport_->ring(); }) : Status{};
}

void Vsock::reset() {
    drop_all();
    reset_event_->cancel();
    listening_.reset();
}

// The connections' last bytes go with the state that sent them.
void Vsock::adopted() noexcept {
    reset();
    draining_.clear();
}

Status Vsock::notified(std::size_t queue) {
    const auto serve = [&]() -> Status {
        switch (queue) {
            case kRx: return send_packets();
            case kTx: return reset_event_->under_way() ? Status{} : take_packets();
            default: return reset_event_->notified();
        }
    };
    Status served = serve();
    if (served && listening_ == nullptr && !reset_event_->under_way()) {
        served = listen();
    }
    if (!served) {
        reset();  // takes nothing from the host until the driver has reset the device
    }
    return served;
}

Status Vsock::take_packets() {
    Queue& tx = transport_->queue(kTx);
    tx.suppress_notifications();
    bool room = true;
    for (unsigned budget = tx.state().size; (room = refusals_.size() < kMaxRefusals); --budget) {
        if (budget == 0) {
            transport_->ring();
            break;
        }
        if (!TRY(tx.pop(chain_))) {
            if (!TRY(tx.resume_notifications())) {
                break;
            }
            continue;
        }
        TRY(take_packet(chain_));
        tx.push(chain_.head, 0);
    }
    transport_->signal_used(kTx);
    TRY(send_packets());
    if (!room && refusals_.size() < kMaxRefusals) {
        transport_->ring();
    }
    return {};
}

Status Vsock::take_packet(const Chain& chain) {
    std::array<std::byte, Header::kSize> bytes;
    if (TRY(read_chain(transport_->memory(), chain, 0, bytes)) < bytes.size()) {
        return {};  // a malformed packet has no sender to answer
    }
    const Header header = Header::decode(bytes);
    const bool whole = header.len <= chain.readable_bytes - Header::kSize;
    const bool ours = header.src_cid == cid_ && header.dst_cid == kHostCid && header.type == kStream;
    const auto found = ours ? connections_.find({header.src_port, header.dst_port}) : connections_.end();
    if (found == connections_.end()) {
        const bool taken = ours && whole && header.op == Op::request && connect_host(header);
        if (!taken) {
            refuse(header);
        }
        return {};
    }
    const ConnectionPtr connection = found->second;
    if (header.op == Op::reset) {
        close(connection, false);
        return {};
    }
    std::span<std::byte> payload;
    if (header.op == Op::data) {
        if (!whole || header.len > payload_.size()) {
            close(connection, true);
            return {};
        }
        payload = std::span(payload_).first(header.len);
        TRY(read_chain(transport_->memory(), chain, Header::kSize, payload));
    }
    if (!connection->take(header, payload)) {
        close(connection, true);
        return {};
    }
    follow_up(connection);
    return {};
}

// 5.10.6.4: a packet that belongs to no connection is answered by a reset, unless it is one.
void Vsock::refuse(const Header& header) {
    if (header.op != Op::reset) {
        refusals_.push_back({.src_cid = header.dst_cid,
                             .dst_cid = cid_,
                             .src_port = header.dst_port,
                             .dst_port = header.src_port,
                             .type = header.type,
                             .op = Op::reset});
    }
}

bool Vsock::connect_host(const Header& header) {
    if (!make_room()) {
        return false;
    }
    const FolderEntry& own = listener_.entry();
    Result<UniqueFd> socket = connect_unix(own.folder(), own.name() + "_" + std::to_string(header.dst_port));
    if (!socket) {
        return false;
    }
    add(std::make_shared<Connection>(Ports{header.src_port, header.dst_port}, *std::move(socket),
                                     Connection::Begun::by_guest, header));
    return true;
}

Status Vsock::send_packets() {
    Status sent = fill_buffers();
    // While these connections wait for buffers, their sockets must not be reported as readable. A
    // connection that cannot be watched leaves the queue.
    for (const ConnectionPtr& connection : std::vector(ready_.begin(), ready_.end())) {
        watch(connection);
    }
    return sent;
}

Status Vsock::fill_buffers() {
    Queue& rx = transport_->queue(kRx);
    if (!rx.ready()) {
        return {};
    }
    unsigned budget = rx.state().size;
    rx.suppress_notifications();
    while (!refusals_.empty() || !ready_.empty()) {
        if (budget-- == 0) {
            transport_->ring();
            break;
        }
        if (!TRY(rx.pop(chain_))) {
            if (!TRY(rx.resume_notifications())) {
                break;
            }
            continue;
        }
        if (chain_.writable_bytes <= Header::kSize) {
            rx.push(chain_.head, 0);  // no room for a packet
            continue;
        }
        const auto header = next_packet(std::min<std::uint64_t>(chain_.writable_bytes - Header::kSize, kMaxPayload));
        if (!header) {
            rx.unpop();
            continue;
        }
        TRY(write_chain(transport_->memory(), chain_, 0, header->encode()));
        TRY(write_chain(transport_->memory(), chain_, Header::kSize, std::span(payload_).first(header->len)));
        rx.push(chain_.head, static_cast<std::uint32_t>(Header::kSize + header->len));
    }
    transport_->signal_used(kRx);
    return {};
}

std::optional<Header> Vsock::next_packet(std::size_t room) {
    if (!refusals_.empty()) {
        const Header header = refusals_.front();
        refusals_.pop_front();
        return header;
    }
    const ConnectionPtr connection = ready_.front();
    ready_.pop_front();
    connection->queued = false;
    std::optional<Header> header = connection->next(std::span(payload_).first(room));
    if (header) {
        header->dst_cid = cid_;
    }
    follow_up(connection);
    return header;
}

// Sends packets after an event on the host's side. After an error it rings: notified() finds the
// error again and reports it.
void Vsock::deliver() {
    if (!send_packets()) {
        transport_->ring();
    }
}

}  // namespace snapvm::virtio
