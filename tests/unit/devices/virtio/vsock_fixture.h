// SPDX-License-Identifier: Apache-2.0
// What the tests of the vsock device share: a guest that talks to it, and the host's ends of its
// connections.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "devices/virtio/vsock/vsock.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/vsock_guest.h"

namespace snapvm {

using test::Header;
using test::Op;
using test::Packet;
using test::ScratchFolder;
using test::VsockGuest;
using virtio::vsock::Connection;

inline constexpr std::uint32_t kGuestPort = 1000;
inline constexpr std::uint32_t kHostPort = 52;

class VirtioVsock : public ::testing::Test {
protected:
    [[nodiscard]] std::string path() const { return scratch_.file("v"); }
    Listener listen(std::uint32_t port = kHostPort) {
        return *Listener::open(path() + "_" + std::to_string(port), "another");
    }
    static UniqueFd accept(const Listener& listener) {
        return UniqueFd(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    }
    static Header header(Op op, std::uint32_t guest_port = kGuestPort) {
        return VsockGuest::header(op, guest_port, kHostPort);
    }
    /// Expects that this packet comes, and returns it.
    static Packet expect(VsockGuest& guest, Op op) {
        EXPECT_TRUE(guest.run());
        const auto packet = guest.receive();
        EXPECT_TRUE(packet.has_value()) << "waiting for op " << static_cast<int>(op);
        if (!packet) {
            return {};
        }
        EXPECT_EQ(static_cast<int>(packet->header.op), static_cast<int>(op));
        EXPECT_EQ(packet->header.src_cid, 2U);
        EXPECT_EQ(packet->header.dst_cid, VsockGuest::kCid);
        return *packet;
    }
    static void expect_nothing(VsockGuest& guest) {
        EXPECT_TRUE(guest.run());
        const auto packet = guest.receive();
        EXPECT_FALSE(packet.has_value()) << "op " << static_cast<int>(packet->header.op);
    }
    /// Opens a connection from the guest to the host. Returns the host's end of it.
    UniqueFd connect_host(VsockGuest& guest, std::uint32_t guest_port = kGuestPort, std::uint32_t buf_alloc = 1 << 20) {
        const Listener listener = listen();
        Header request = header(Op::request, guest_port);
        request.buf_alloc = buf_alloc;
        guest.send(request);
        const Packet response = expect(guest, Op::response);
        EXPECT_EQ(response.header.src_port, kHostPort);
        EXPECT_EQ(response.header.dst_port, guest_port);
        EXPECT_EQ(response.header.buf_alloc, Connection::kBuffer);
        return accept(listener);
    }

    ScratchFolder scratch_;
};

}  // namespace snapvm
