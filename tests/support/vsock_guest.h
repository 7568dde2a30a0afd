// SPDX-License-Identifier: Apache-2.0
// A guest's vsock driver without a guest, for tests and fuzzers of the device, and the host's
// programs at its unix sockets.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/vsock/vsock.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/virtio_driver.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {

using virtio::vsock::Header;
using virtio::vsock::Op;

struct Packet {
    Header header;
    std::string payload;
};

/// Ends the program if an assumption of the test or fuzzer does not hold.
inline void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

/// Driver and device on memory of their own. The device works only in run().
class VsockGuest {
public:
    static constexpr std::uint64_t kCid = 7;
    static constexpr std::uint32_t kRxSize = 1024;

    explicit VsockGuest(std::string socket, std::uint16_t rx_buffers = 32, std::uint16_t event_buffers = 4,
                        std::uint64_t features = 1) {
        config_.vsock = VsockConfig{kCid, std::move(socket)};
        build(nullptr);
        require(driver_->negotiate(features));
        driver_->set_queue(0, rx_);
        driver_->set_queue(1, tx_);
        driver_->set_queue(2, events_);
        driver_->start();
        give_buffers(rx_buffers);
        give_event_buffers(event_buffers);
        run();
    }

    /// Replaces the device by one in another process, as a snapshot and a restore do.
    void restore() {
        const StateRecord record = attached_.device->save();
        attached_ = {};
        build(&record);
        require(attached_.device->restored().has_value());
    }

    /// Has the device adopt the state that it is in. Nothing of its past stays.
    void adopt() { require(adopt_record(*attached_.device, attached_.device->save()).has_value()); }
    /// Goes on from the adopted state.
    void go_on() { require(attached_.device->restored().has_value()); }

    void give_buffers(unsigned count, std::uint32_t size = kRxSize) {
        for (; count > 0; --count) {
            const Gpa at = kRxBase + next_buffer_++ % rx_.size() * std::uint64_t{kRxSize};
            rx_at_[rx_.add({{at, size, true}})] = at;
        }
        driver_->notify(0);
    }
    void give_event_buffers(unsigned count) {
        for (; count > 0; --count) {
            events_.add({{kEventBase, 4, true}});
        }
        driver_->notify(2);
    }
    void send_raw(std::span<const std::byte> bytes, std::uint32_t second = 0) {
        const auto size = static_cast<std::uint32_t>(bytes.size());
        require(fake_.memory.write(kTxBase, bytes).has_value());
        if (second == 0 || second >= size) {
            tx_.add({{kTxBase, size, false}});
        } else {
            tx_.add({{kTxBase, second, false}, {kTxBase + second, size - second, false}});
        }
        driver_->notify(1);
    }
    void send(Header header, std::string_view payload = {}) {
        header.len = static_cast<std::uint32_t>(payload.size());
        std::vector<std::byte> bytes(Header::kSize + payload.size());
        std::ranges::copy(header.encode(), bytes.begin());
        std::ranges::copy(std::as_bytes(std::span(payload)), bytes.begin() + Header::kSize);
        send_raw(bytes, Header::kSize);
    }
    /// Returns a header of a connection between these ports.
    [[nodiscard]] static Header header(Op op, std::uint32_t guest_port, std::uint32_t host_port) {
        return {.src_cid = kCid,
                .dst_cid = 2,
                .src_port = guest_port,
                .dst_port = host_port,
                .op = op,
                .buf_alloc = 1 << 20};
    }
    /// Returns the next packet. Its buffer is given back unless `keep` is set.
    std::optional<Packet> receive(bool keep = false) {
        const auto used = rx_.take();
        if (!used) {
            return std::nullopt;
        }
        std::vector<std::byte> bytes(used->written);
        require(fake_.memory.read(rx_at_.at(static_cast<std::uint16_t>(used->head)), bytes).has_value());
        if (!keep) {
            give_buffers(1);
        }
        if (bytes.size() < Header::kSize) {
            return Packet{};
        }
        Packet packet{Header::decode(std::span(bytes).first<Header::kSize>()), {}};
        packet.payload.assign(reinterpret_cast<const char*>(bytes.data()) + Header::kSize,
                              bytes.size() - Header::kSize);
        return packet;
    }
    /// Returns the number of events since the last call.
    unsigned take_events() {
        unsigned count = 0;
        while (const auto used = events_.take()) {
            require(used->written == 4U);
            require(events_.load<std::uint32_t>(kEventBase) == 0U);
            ++count;
        }
        return count;
    }
    /// Runs the event loop until there is nothing to do. Returns false if that takes too many
    /// rounds.
    bool run() {
        for (int i = 0; i < 10'000; ++i) {
            if (!fake_.loop->run_pending()) {
                return true;
            }
        }
        return false;
    }

    [[nodiscard]] virtio::Vsock& device() {
        return dynamic_cast<virtio::Vsock&>(dynamic_cast<virtio::Mmio&>(*attached_.device).device());
    }
    [[nodiscard]] MmioDriver& driver() { return *driver_; }
    [[nodiscard]] DriverQueue& tx() { return tx_; }
    [[nodiscard]] DriverQueue& events() { return events_; }
    [[nodiscard]] FakeHost& fake() { return fake_; }

private:
    static constexpr Gpa kRxBase{0x40000};
    static constexpr Gpa kTxBase{0x80000};
    static constexpr Gpa kEventBase{0xF0000};

    void build(const StateRecord* record) {
        for (const DeviceFactory& factory : device_factories()) {
            if (factory.kind == RecordKind::virtio_vsock) {
                auto attached = build_device(factory, fake_, config_, record);
                require(attached.has_value());
                attached_ = *std::move(attached);
                driver_.emplace(*attached_.ranges.front().device);
            }
        }
    }

    DeviceConfig config_;
    FakeHost fake_;
    AttachedDevice attached_;
    std::optional<MmioDriver> driver_;
    DriverQueue rx_{fake_.memory, Gpa{0x1000}, 64};
    DriverQueue tx_{fake_.memory, Gpa{0x8000}, 256};
    DriverQueue events_{fake_.memory, Gpa{0x10000}, 8};
    std::map<std::uint16_t, Gpa> rx_at_;
    unsigned next_buffer_ = 0;
};

/// Returns what can be read from a socket now.
inline std::string read_socket(int fd) {
    std::string all;
    std::array<char, 4096> chunk;
    while (true) {
        const ssize_t got = ::recv(fd, chunk.data(), chunk.size(), MSG_DONTWAIT);
        if (got <= 0) {
            return all;
        }
        all.append(chunk.data(), static_cast<std::size_t>(got));
    }
}
inline bool at_end(int fd) {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}
inline std::size_t write_socket(int fd, std::string_view bytes) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? 0 : static_cast<std::size_t>(sent);
}

}  // namespace snapvm::test
