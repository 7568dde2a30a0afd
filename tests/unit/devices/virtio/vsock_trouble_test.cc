// SPDX-License-Identifier: Apache-2.0
// The vsock device with a driver that breaks all rules, over a restore, and at its limits.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <iterator>
#include <random>

#include "tests/unit/devices/virtio/vsock_fixture.h"

namespace snapvm {
namespace {

using test::at_end;
using test::read_socket;
using test::write_socket;

// The device has closed this end. It may not have read all bytes sent here.
bool gone(int fd) {
    pollfd entry{fd, 0, 0};
    return ::poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
}

TEST_F(VirtioVsock, MalformedPacketsDoNoHarm) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    const auto good = header(Op::data).encode();
    for (std::size_t size = 1; size < Header::kSize; ++size) {
        guest.send_raw(std::span(good).first(size));
        expect_nothing(guest);
    }
    // Each field of a packet of no connection.
    std::vector<Header> bad(5, header(Op::request, 2000));
    bad[0].src_cid = 8;
    bad[1].dst_cid = 3;
    bad[2].type = 2;
    bad[3].dst_cid = ~0ULL;
    bad[4].op = Op{9};
    for (const Header& header : bad) {
        guest.send_raw(header.encode());
        ASSERT_TRUE(guest.run());
        const auto reset = guest.receive();
        ASSERT_TRUE(reset.has_value());
        EXPECT_EQ(static_cast<int>(reset->header.op), static_cast<int>(Op::reset));
        EXPECT_EQ(reset->header.src_cid, header.dst_cid);
        EXPECT_EQ(reset->header.type, header.type);
        EXPECT_EQ(guest.device().connections(), 1U) << "the good one stays";
    }
    // This packet has more payload than there is. The device gives up the connection.
    Header longer = header(Op::data);
    longer.len = 100;
    guest.send_raw(longer.encode());
    (void)expect(guest, Op::reset);
    EXPECT_EQ(guest.device().connections(), 0U);
    EXPECT_FALSE(guest.driver().needs_reset());
    // Noise, in connections and out of them.
    std::mt19937 random(3);
    const Listener listener = listen();
    for (int i = 0; i < 20'000; ++i) {
        Header noise = header(Op{static_cast<std::uint16_t>(random() % 10)}, random() % 4);
        noise.flags = random() % 5;
        noise.buf_alloc = random() % 3 == 0 ? random() : 1000;
        noise.fwd_cnt = random() % 3 == 0 ? random() : 0;
        noise.type = random() % 20 == 0 ? 2 : 1;
        noise.len = random() % 4 == 0 ? random() % 200 : 0;
        std::vector<std::byte> bytes(Header::kSize + random() % 100);
        std::ranges::copy(noise.encode(), bytes.begin());
        guest.send_raw(bytes, random() % 60);
        if (random() % 4 == 0) {
            const UniqueFd met = accept(listener);
            write_socket(met.get(), "hello");
        }
        ASSERT_TRUE(guest.run());
        while (guest.receive()) {
        }
    }
    EXPECT_FALSE(guest.driver().needs_reset());
    guest.driver().write(0x70, 0);
    EXPECT_EQ(guest.device().connections(), 0U);
}

TEST_F(VirtioVsock, ARingThatMakesNoSenseNeedsAResetAndEndsAll) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    guest.tx().set_available_index(30'000);
    guest.driver().notify(1);
    ASSERT_TRUE(guest.run());
    EXPECT_TRUE(guest.driver().needs_reset());
    EXPECT_TRUE(at_end(host.get()));
    write_socket(connect_unix(path())->get(), "CONNECT 1\n");
    ASSERT_TRUE(guest.run());
}

std::ptrdiff_t open_files() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

// A guest hangs, and a program on the host tries to reach it repeatedly.
TEST_F(VirtioVsock, ClientsThatGoBeforeTheGuestHeardOfThemLeaveNothing) {
    VsockGuest guest(path(), 0);
    const std::ptrdiff_t before = open_files();
    for (int i = 0; i < 50; ++i) {
        UniqueFd client = *connect_unix(path());
        write_socket(client.get(), "CONNECT 80\n");
        ASSERT_TRUE(guest.run());
        EXPECT_EQ(guest.device().connections(), 1U);
        client.reset();
        ASSERT_TRUE(guest.run());
    }
    EXPECT_EQ(open_files(), before);
    EXPECT_EQ(guest.device().connections(), 0U);
    guest.give_buffers(32);
    expect_nothing(guest);
}

TEST_F(VirtioVsock, AConnectionThatEndsWhileItWaitsForBuffersIsClosedAtOnce) {
    VsockGuest guest(path(), 1);
    const UniqueFd host = connect_host(guest);
    write_socket(host.get(), "first");
    ASSERT_TRUE(guest.run());
    write_socket(host.get(), "waits");
    ASSERT_TRUE(guest.run());
    guest.send(header(Op::reset));
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.device().connections(), 0U);
    EXPECT_TRUE(gone(host.get()));
    EXPECT_EQ(guest.receive()->payload, "first");
    expect_nothing(guest);
}

TEST_F(VirtioVsock, NothingMovesWhileTheLoopIsHeld) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    guest.fake().loop->quiesce();
    write_socket(host.get(), "later");
    expect_nothing(guest);
    guest.fake().loop->thaw();
    EXPECT_EQ(expect(guest, Op::data).payload, "later");
}

TEST_F(VirtioVsock, ARestoredGuestIsToldThatItsConnectionsAreGone) {
    VsockGuest guest(path());
    const UniqueFd host = connect_host(guest);
    UniqueFd first = *connect_unix(path());
    write_socket(first.get(), "CONNECT 80\n");
    const std::uint32_t old_port = expect(guest, Op::request).header.src_port;
    EXPECT_EQ(guest.take_events(), 0U);
    guest.restore();
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.take_events(), 1U);
    EXPECT_TRUE(at_end(host.get()));
    // A client that connects before the driver has taken the event waits, because Linux would reset
    // its connection too.
    const UniqueFd client = *connect_unix(path());
    write_socket(client.get(), "CONNECT 80\n");
    expect_nothing(guest);
    guest.give_event_buffers(1);
    EXPECT_NE(expect(guest, Op::request).header.src_port, old_port) << "the guest may still remember that one";
    EXPECT_EQ(guest.take_events(), 0U) << "told once";
}

// The other way round, too: Linux takes the answer, then gets to the event, and resets what it has
// just made.
TEST_F(VirtioVsock, WhatTheGuestSendsBeforeItHasTakenNoteWaits) {
    VsockGuest guest(path());
    const UniqueFd old = connect_host(guest);
    guest.restore();
    const Listener listener = listen();
    guest.send(header(Op::request, kGuestPort + 1));
    expect_nothing(guest);
    EXPECT_EQ(guest.take_events(), 1U);
    EXPECT_FALSE(accept(listener).valid());
    guest.give_event_buffers(1);
    EXPECT_EQ(expect(guest, Op::response).header.dst_port, kGuestPort + 1);
    EXPECT_TRUE(accept(listener).valid());
    guest.send(header(Op::data), "into the void");
    EXPECT_EQ(expect(guest, Op::reset).header.dst_port, kGuestPort);
}

TEST_F(VirtioVsock, ConnectionsAreGoneWhenAStateIsAdopted) {
    VsockGuest guest(path(), 64);
    const UniqueFd host = connect_host(guest);
    // The guest has closed this one, and the host's program has not taken all of its bytes.
    const UniqueFd slow = connect_host(guest, kGuestPort + 1);
    for (int i = 0; i < 5; ++i) {
        guest.send(header(Op::data, kGuestPort + 1), std::string(50'000, 'x'));
        ASSERT_TRUE(guest.run());
    }
    Header shutdown = header(Op::shutdown, kGuestPort + 1);
    shutdown.flags = virtio::vsock::kNeither;
    guest.send(shutdown);
    const UniqueFd unnamed = *connect_unix(path());
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.device().connections(), 3U);
    while (guest.receive()) {
    }
    ASSERT_TRUE(guest.run());
    guest.adopt();
    EXPECT_EQ(guest.device().connections(), 0U);
    EXPECT_TRUE(at_end(host.get()));
    EXPECT_TRUE(gone(unnamed.get()));
    // A client waits until the machine runs.
    const UniqueFd client = *connect_unix(path());
    write_socket(client.get(), "CONNECT 80\n");
    expect_nothing(guest);
    EXPECT_EQ(guest.take_events(), 0U);
    for (int times = 0; times < 2; ++times) {
        guest.go_on();
        ASSERT_TRUE(guest.run());
        EXPECT_EQ(guest.take_events(), 1U) << "each time it is told again";
        expect_nothing(guest);
        guest.adopt();
        guest.give_event_buffers(1);
    }
    guest.go_on();
    ASSERT_TRUE(guest.run());
    guest.give_event_buffers(1);
    (void)expect(guest, Op::request);
}

// With event indexes a driver that puts the event's buffer back says so only where it was asked to
// beyond those it has there already.
TEST_F(VirtioVsock, TheNoteThatADriverTakesIsAskedFor) {
    VsockGuest guest(path(), 32, 4, 1 | 1ULL << 29);
    guest.restore();
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.take_events(), 1U);
    EXPECT_EQ(guest.events().available_event(), 4U);
}

TEST_F(VirtioVsock, TheEventWaitsForABuffer) {
    VsockGuest guest(path(), 32, 0);
    guest.restore();
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.take_events(), 0U);
    guest.restore();  // the driver was not told yet, and the event must not be lost
    ASSERT_TRUE(guest.run());
    guest.give_event_buffers(2);
    ASSERT_TRUE(guest.run());
    EXPECT_EQ(guest.take_events(), 1U);
}

TEST_F(VirtioVsock, ADriverThatTakesNoNoteHoldsClientsUpForASecondOnly) {
    VsockGuest guest(path(), 32, 0);
    guest.restore();
    const UniqueFd client = *connect_unix(path());
    write_socket(client.get(), "CONNECT 80\n");
    expect_nothing(guest);
    ::poll(nullptr, 0, 1100);
    (void)expect(guest, Op::request);
}

TEST_F(VirtioVsock, NoMoreConnectionsThanAllowed) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit wanted = {std::max<rlim_t>(limit.rlim_cur, 4096), limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &wanted) != 0) {
        GTEST_SKIP() << "needs 4096 open files";
    }
    VsockGuest guest(path());
    const Listener listener = listen();
    std::vector<UniqueFd> ends;
    for (std::uint32_t i = 0; i < virtio::Vsock::kMaxConnections; ++i) {
        guest.send(header(Op::request, i));
        (void)expect(guest, Op::response);
        ends.push_back(accept(listener));
    }
    guest.send(header(Op::request, 5000));
    (void)expect(guest, Op::reset);
    EXPECT_EQ(guest.device().connections(), virtio::Vsock::kMaxConnections);
    const UniqueFd client = *connect_unix(path());
    expect_nothing(guest);
    EXPECT_TRUE(at_end(client.get()));
    // A connection that only waits for the guest's agreement is dropped for another.
    ends.back().reset();
    (void)expect(guest, Op::shutdown);
    guest.send(header(Op::request, 5000));
    (void)expect(guest, Op::reset);
    (void)expect(guest, Op::response);
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

// A guest must not keep the process from opening the files of a snapshot.
TEST_F(VirtioVsock, NoMoreThanHalfOfTheOpenFilesAreTheGuests) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const auto allowed = static_cast<std::uint32_t>(open_files()) + 20;
    const rlimit wanted = {rlim_t{2} * allowed, limit.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &wanted), 0);
    {
        VsockGuest guest(path());
        const Listener listener = listen();
        for (std::uint32_t i = 0; i < allowed; ++i) {
            guest.send(header(Op::request, i));
            (void)expect(guest, Op::response);
        }
        guest.send(header(Op::request, allowed));
        (void)expect(guest, Op::reset);
        EXPECT_EQ(guest.device().connections(), allowed);
        EXPECT_TRUE(test::ok(open_file("/dev/null", O_RDONLY)));
    }
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

TEST_F(VirtioVsock, TheSocketIsOursAloneAndGoesWithUs) {
    struct stat info{};
    {
        VsockGuest guest(path());
        ASSERT_EQ(::stat(path().c_str(), &info), 0);
        EXPECT_EQ(info.st_mode & 0777, 0600U);
        const auto second = virtio::Vsock::create({3, path()});
        EXPECT_TRUE(test::fails(second, ErrorKind::busy, path()));
    }
    EXPECT_NE(::stat(path().c_str(), &info), 0);
    {
        // A process that died.
        const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const sockaddr_un address = *unix_address(path());
        ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    }
    EXPECT_TRUE(test::ok(virtio::Vsock::create({3, path()})));
    EXPECT_TRUE(
        test::fails(virtio::Vsock::create({3, scratch_.file(std::string(100, 'x'))}), ErrorKind::usage, "shorter"));
    EXPECT_FALSE(virtio::Vsock::create({3, scratch_.file("no/such/folder")}).has_value());
}

}  // namespace
}  // namespace snapvm
