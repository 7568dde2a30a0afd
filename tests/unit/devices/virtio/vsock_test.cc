// SPDX-License-Identifier: Apache-2.0
// The vsock device between a driver that keeps the rules and real unix sockets.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <random>

#include "tests/support/need.h"
#include "tests/unit/devices/virtio/vsock_fixture.h"

namespace snapvm {
namespace {

using test::at_end;
using test::read_socket;
using test::write_socket;

std::string random_text(std::size_t size) {
    std::mt19937 random(1);
    std::string text(size, 0);
    std::ranges::generate(text, [&] { return static_cast<char>(random()); });
    return text;
}

TEST_F(VirtioVsock, ShowsTheGuestItsCid) {
    VsockGuest guest(path());
    EXPECT_EQ(guest.driver().config<std::uint64_t>(0), VsockGuest::kCid);
    EXPECT_EQ(guest.driver().config<std::uint32_t>(6), 0U);
    EXPECT_EQ(guest.driver().read(8), 19U);
}

TEST_F(VirtioVsock, TheGuestReachesTheHost) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    guest.send(header(Op::data), "from the guest");
    expect_nothing(guest);
    EXPECT_EQ(read_socket(host.get()), "from the guest");
    write_socket(host.get(), "from the host");
    EXPECT_EQ(expect(guest, Op::data).payload, "from the host");
    guest.send(header(Op::credit_request));
    EXPECT_EQ(expect(guest, Op::credit_update).header.fwd_cnt, 14U);
    guest.send(header(Op::reset));
    expect_nothing(guest);
    EXPECT_TRUE(at_end(host.get()));
    EXPECT_EQ(guest.device().connections(), 0U);
}

// The host's sockets are those beside the device's own, wherever that folder is by then.
TEST_F(VirtioVsock, TheGuestReachesTheHostInARenamedFolder) {
    const std::string before = scratch_.file("before");
    const std::string after = scratch_.file("after");
    std::filesystem::create_directory(before);
    {
        VsockGuest guest(before + "/v");
        const auto there = test::need(Listener::open(before + "/v_" + std::to_string(kHostPort), "another"));
        std::filesystem::rename(before, after);
        std::filesystem::create_directory(before);
        guest.send(header(Op::request));
        expect(guest, Op::response);
        EXPECT_TRUE(accept(there).valid());
        EXPECT_TRUE(std::filesystem::exists(after + "/v"));
    }
    EXPECT_TRUE(std::filesystem::is_empty(after)) << "the sockets are removed where they are";
}

TEST_F(VirtioVsock, TheHostReachesTheGuest) {
    VsockGuest guest(path());
    UniqueFd client = *connect_unix(path());
    write_socket(client.get(), "CONN");
    expect_nothing(guest);
    write_socket(client.get(), "ECT 80\nearly");
    const Packet request = expect(guest, Op::request);
    EXPECT_EQ(request.header.dst_port, 80U);
    EXPECT_EQ(read_socket(client.get()), "") << "the guest has not accepted";
    Header response = VsockGuest::header(Op::response, 80, request.header.src_port);
    guest.send(response);
    EXPECT_EQ(expect(guest, Op::data).payload, "early");
    EXPECT_EQ(read_socket(client.get()), "OK " + std::to_string(request.header.src_port) + "\n");
    // The next client is another one to the guest.
    const UniqueFd second = *connect_unix(path());
    write_socket(second.get(), "CONNECT 80\n");
    const Packet other = expect(guest, Op::request);
    EXPECT_NE(other.header.src_port, request.header.src_port);
    guest.send(VsockGuest::header(Op::reset, 80, other.header.src_port));
    expect_nothing(guest);
    EXPECT_TRUE(at_end(second.get())) << "refused";
    // A client that goes before it was answered.
    UniqueFd third = *connect_unix(path());
    write_socket(third.get(), "CONNECT 81\n");
    (void)expect(guest, Op::request);
    third.reset();
    (void)expect(guest, Op::reset);
}

TEST_F(VirtioVsock, LinesThatMakeNoSenseEndTheConnection) {
    VsockGuest guest(path());
    for (const char* line :
         {"\n", "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT -1\n", "connect 1\n",
          "CONNECT 1 \n", "GET / HTTP/1.1\r\n", "CONNECT 00000000000000000000000000000000000001\n"}) {
        const UniqueFd client = *connect_unix(path());
        write_socket(client.get(), line);
        expect_nothing(guest);
        char byte = 0;
        EXPECT_LE(::recv(client.get(), &byte, 1, MSG_DONTWAIT), 0) << line;
        EXPECT_EQ(guest.device().connections(), 0U) << line;
    }
    {
        const UniqueFd silent = *connect_unix(path());
    }
    expect_nothing(guest);
    EXPECT_EQ(guest.device().connections(), 0U);
}

TEST_F(VirtioVsock, NobodyThereIsAReset) {
    VsockGuest guest(path());
    guest.send(header(Op::request));
    const Packet reset = expect(guest, Op::reset);
    EXPECT_EQ(reset.header.src_port, kHostPort);
    EXPECT_EQ(reset.header.dst_port, kGuestPort);
    // Packets that belong to no connection are answered by a reset, unless they are resets.
    for (const Op op :
         {Op::response, Op::data, Op::shutdown, Op::credit_update, Op::credit_request, Op{0}, Op{8}, Op{0xFFFF}}) {
        guest.send(header(op));
        (void)expect(guest, Op::reset);
    }
    guest.send(header(Op::reset));
    expect_nothing(guest);
}

TEST_F(VirtioVsock, AMebibyteToTheGuestWithTinyCredit) {
    VsockGuest guest(path());
    constexpr std::uint32_t kCredit = 300;
    const UniqueFd host = connect_host(guest, kGuestPort, kCredit);
    const std::string sent = random_text(1 << 20);
    std::size_t written = 0;
    std::string got;
    std::uint32_t asked = 0;
    while (got.size() < sent.size()) {
        written += write_socket(host.get(), std::string_view(sent).substr(written));
        ASSERT_TRUE(guest.run());
        std::uint32_t window = 0;
        while (const auto packet = guest.receive()) {
            asked += packet->header.op == Op::credit_request ? 1 : 0;
            got += packet->payload;
            window += static_cast<std::uint32_t>(packet->payload.size());
        }
        ASSERT_LE(window, kCredit) << "more than there was room for";
        Header update = header(Op::credit_update);
        update.buf_alloc = kCredit;
        update.fwd_cnt = static_cast<std::uint32_t>(got.size());
        guest.send(update);
    }
    EXPECT_TRUE(got == sent);
    EXPECT_GT(asked, 0U);
}

TEST_F(VirtioVsock, AMebibyteToASlowHostWithinTheCredit) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    const std::string sent = random_text(1 << 20);
    std::uint32_t written = 0;
    std::uint32_t forwarded = 0;
    std::string got;
    bool stalled = false;
    while (got.size() < sent.size()) {
        while (written < sent.size()) {
            const std::uint32_t credit = Connection::kBuffer - (written - forwarded);
            const std::string_view part = std::string_view(sent).substr(written, std::min<std::uint32_t>(credit, 5000));
            if (part.empty()) {
                stalled = true;
                guest.send(header(Op::credit_request));
                break;
            }
            guest.send(header(Op::data), part);
            written += static_cast<std::uint32_t>(part.size());
            ASSERT_TRUE(guest.run());
        }
        std::array<char, 30'000> chunk;
        const ssize_t read = ::recv(host.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
        got.append(chunk.data(), static_cast<std::size_t>(std::max<ssize_t>(read, 0)));
        ASSERT_TRUE(guest.run());
        while (const auto packet = guest.receive()) {
            ASSERT_EQ(static_cast<int>(packet->header.op), static_cast<int>(Op::credit_update));
            forwarded = packet->header.fwd_cnt;
        }
    }
    EXPECT_TRUE(got == sent);
    EXPECT_TRUE(stalled) << "the credit was never used up";
}

TEST_F(VirtioVsock, MoreThanTheCreditIsAReset) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    const std::string part(60'000, 'x');
    std::optional<Packet> packet;
    for (int i = 0; i < 20 && (!packet || packet->header.op != Op::reset); ++i) {
        guest.send(header(Op::data), part);
        ASSERT_TRUE(guest.run());
        packet = guest.receive();
    }
    ASSERT_TRUE(packet.has_value());
    EXPECT_EQ(static_cast<int>(packet->header.op), static_cast<int>(Op::reset));
    EXPECT_EQ(guest.device().connections(), 0U);
}

TEST_F(VirtioVsock, WithoutCreditNothingIsSentAndItIsAskedForOnce) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest, kGuestPort, 0);
    write_socket(host.get(), "waits");
    (void)expect(guest, Op::credit_request);
    expect_nothing(guest);
    // Claims that cannot be are no credit either.
    Header update = header(Op::credit_update);
    update.buf_alloc = 0xFFFFFFFF;
    update.fwd_cnt = 1;
    guest.send(update);
    expect_nothing(guest);
    update.fwd_cnt = 0;
    guest.send(update);
    EXPECT_EQ(expect(guest, Op::data).payload, "waits");
}

TEST_F(VirtioVsock, WithoutBuffersEverythingWaits) {
    VsockGuest guest(path(), 1);
    const UniqueFd host = connect_host(guest);
    (void)guest.run();
    // The one buffer is given and used; no other comes.
    write_socket(host.get(), "first");
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.receive(true)->payload, "first");
    write_socket(host.get(), "second");
    ASSERT_TRUE(guest.run()) << "no busy loop over a socket that is readable";
    EXPECT_FALSE(guest.receive(true).has_value());
    guest.give_buffers(1, Header::kSize);  // too small for anything
    guest.give_buffers(1, Header::kSize + 3);
    guest.give_buffers(1);
    ASSERT_TRUE(guest.run());
    EXPECT_TRUE(guest.receive(true)->payload.empty());
    EXPECT_EQ(guest.receive(true)->payload, "sec");
    EXPECT_EQ(guest.receive(true)->payload, "ond");
}

TEST_F(VirtioVsock, ResetsThatWaitForBuffersAreBounded) {
    VsockGuest guest(path(), 0);
    for (unsigned i = 0; i < 256; ++i) {
        guest.send(header(Op::data, i));
        ASSERT_TRUE(guest.run());
    }
    const std::uint16_t before = guest.tx().used_index();
    for (unsigned i = 0; i < 10; ++i) {
        guest.send(header(Op::data, 5000 + i));
        ASSERT_TRUE(guest.run());
    }
    EXPECT_EQ(guest.tx().used_index(), before) << "it does not take what it could not answer";
    guest.give_buffers(32);
    unsigned resets = 0;
    while (guest.run() && guest.receive()) {
        ++resets;
    }
    EXPECT_EQ(resets, 266U);
    EXPECT_EQ(guest.tx().used_index(), before + 10);
}

TEST_F(VirtioVsock, TheHostEndsOneDirectionThenBoth) {
    VsockGuest guest(path());
    UniqueFd host = connect_host(guest);
    write_socket(host.get(), "last words");
    ::shutdown(host.get(), SHUT_WR);
    EXPECT_EQ(expect(guest, Op::data).payload, "last words");
    EXPECT_EQ(expect(guest, Op::shutdown).header.flags, virtio::vsock::kNoSend);
    guest.send(header(Op::data), "an answer");
    expect_nothing(guest);
    EXPECT_EQ(read_socket(host.get()), "an answer");
    host.reset();
    EXPECT_EQ(expect(guest, Op::shutdown).header.flags, virtio::vsock::kNeither);
    expect_nothing(guest);
    guest.send(header(Op::reset));
    expect_nothing(guest);
    EXPECT_EQ(guest.device().connections(), 0U);
}

TEST_F(VirtioVsock, WhatTheHostSentBeforeItClosedArrives) {
    VsockGuest guest(path());
    UniqueFd host = connect_host(guest);
    write_socket(host.get(), "an answer and goodbye");
    host.reset();
    guest.send(header(Op::data), "still talking");  // the host's end is gone; a reset would lose the answer
    ASSERT_TRUE(guest.run());
    std::string got;
    std::uint32_t flags = 0;
    while (const auto packet = guest.receive()) {
        got += packet->payload;
        flags |= packet->header.op == Op::shutdown ? packet->header.flags : 0;
        ASSERT_NE(static_cast<int>(packet->header.op), static_cast<int>(Op::reset));
        ASSERT_TRUE(guest.run());
    }
    EXPECT_EQ(got, "an answer and goodbye");
    EXPECT_EQ(flags, virtio::vsock::kNeither);
}

TEST_F(VirtioVsock, TheGuestEndsOneDirectionThenBoth) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    guest.send(header(Op::data), "bye");
    expect_nothing(guest);
    Header shutdown = header(Op::shutdown);
    shutdown.flags = virtio::vsock::kNoSend;
    guest.send(shutdown);
    expect_nothing(guest);
    EXPECT_EQ(read_socket(host.get()), "bye");
    EXPECT_TRUE(at_end(host.get()));
    write_socket(host.get(), "still heard");
    EXPECT_EQ(expect(guest, Op::data).payload, "still heard");
    shutdown.flags = virtio::vsock::kNoReceive;
    guest.send(shutdown);
    (void)expect(guest, Op::reset);
    EXPECT_EQ(guest.device().connections(), 0U);
    guest.send(header(Op::data), "x");
    (void)expect(guest, Op::reset);
}

TEST_F(VirtioVsock, WhatTheGuestSentBeforeItClosedArrivesAtASlowHost) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    const std::string part = random_text(50'000);
    std::string sent;
    // Beyond what the kernel holds for the host, so that the device holds some.
    while (sent.size() < 250'000) {
        guest.send(header(Op::data), part);
        sent += part;
        ASSERT_TRUE(guest.run());
    }
    Header shutdown = header(Op::shutdown);
    shutdown.flags = virtio::vsock::kNeither;
    guest.send(shutdown);
    ASSERT_TRUE(guest.run());
    std::optional<Packet> last;
    while (auto packet = guest.receive()) {
        last = packet;
    }
    ASSERT_TRUE(last.has_value());
    EXPECT_EQ(static_cast<int>(last->header.op), static_cast<int>(Op::reset)) << "the guest waits for no reader";
    EXPECT_EQ(guest.device().connections(), 1U);
    std::string got;
    for (int i = 0; i < 100 && !at_end(host.get()); ++i) {
        got += read_socket(host.get());
        ASSERT_TRUE(guest.run());
    }
    EXPECT_TRUE(got == sent);
    EXPECT_EQ(guest.device().connections(), 0U);
}

// A server answers and closes without reading on. The bytes that it did not take are dropped, and
// nothing of the connection stays.
TEST_F(VirtioVsock, WhatTheHostDidNotTakeBeforeItClosedIsDropped) {
    VsockGuest guest(path(), 1);
    UniqueFd host = connect_host(guest);
    const std::string part = random_text(50'000);
    for (std::size_t sent = 0; sent < 250'000; sent += part.size()) {
        guest.send(header(Op::data), part);
        ASSERT_TRUE(guest.run());
        while (const auto packet = guest.receive()) {
            ASSERT_EQ(static_cast<int>(packet->header.op), static_cast<int>(Op::credit_update));
            ASSERT_TRUE(guest.run());
        }
    }
    write_socket(host.get(), "an answer");
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.receive(true)->payload, "an answer");
    // Waits for a buffer, and fills it, so the device reads on and comes upon the end.
    write_socket(host.get(), std::string(VsockGuest::kRxSize - Header::kSize, 'x'));
    ASSERT_TRUE(guest.run());
    guest.give_buffers(2);
    host.reset();
    ASSERT_TRUE(guest.run());
    std::uint32_t flags = 0;
    while (const auto packet = guest.receive()) {
        ASSERT_NE(static_cast<int>(packet->header.op), static_cast<int>(Op::reset));
        flags |= packet->header.op == Op::shutdown ? packet->header.flags : 0;
        ASSERT_TRUE(guest.run());
    }
    EXPECT_EQ(flags, virtio::vsock::kNeither);
    Header shutdown = header(Op::shutdown);
    shutdown.flags = virtio::vsock::kNeither;
    guest.send(shutdown);
    (void)expect(guest, Op::reset);
    EXPECT_EQ(guest.device().connections(), 0U);
}

}  // namespace
}  // namespace snapvm
