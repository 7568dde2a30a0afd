// SPDX-License-Identifier: Apache-2.0
// Real taps: what opening one refuses, and the network device on it, with packet sockets at the
// host's end.
#include "devices/tap/tap.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>

#include "devices/virtio/net/net.h"
#include "tests/support/net_rig.h"
#include "tests/support/result_matchers.h"
#include "tests/support/tap_network.h"

namespace snapvm {
namespace {

using test::fails;
using test::Frame;
using test::frame_of;
using test::NetRig;
using test::ok;
using test::PacketSocket;
using test::TapNetwork;
using namespace virtio;

constexpr unsigned kLinkUp = 1;
constexpr std::size_t kTcpHeaders = 14 + 20 + 20;

class TapTest : public ::testing::Test {
protected:
    void SetUp() override {
        if (!network_.reason().empty()) {
            GTEST_SKIP() << network_.reason();
        }
    }
    static NetRig rig_on(const std::string& tap, std::uint64_t features = NetRig::kAllFeatures) {
        return NetRig(features, 256, tap, snapvm::open_tap);
    }
    /// Returns the next frame that the guest gets, nothing if none comes for a minute.
    static std::optional<Frame> next(NetRig& rig) {
        const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        while (std::chrono::steady_clock::now() < until) {
            (void)rig.run();
            if (auto frame = rig.receive()) {
                return frame;
            }
        }
        return std::nullopt;
    }
    TapNetwork network_;
};

std::span<const std::byte> body(const Frame& frame) { return std::span(frame).subspan(Tap::kHeader); }

/// Returns a broadcast Ethernet frame of the local experiments' type with a header before it.
Frame experiment(std::size_t size, std::uint8_t fill) {
    Frame frame(Tap::kHeader + size, std::byte{fill});
    std::memset(frame.data(), 0, Tap::kHeader);
    std::memset(frame.data() + Tap::kHeader, 0xFF, 6);
    frame[Tap::kHeader + 12] = std::byte{0x88};
    frame[Tap::kHeader + 13] = std::byte{0xB5};
    return frame;
}

void put16(Frame& frame, std::size_t at, std::size_t value) {
    frame[at] = static_cast<std::byte>(value >> 8);
    frame[at + 1] = static_cast<std::byte>(value);
}
std::uint16_t sum16(std::span<const std::byte> bytes, std::uint32_t sum = 0) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        sum += std::to_integer<std::uint32_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
    }
    while (sum >> 16 != 0) {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    return static_cast<std::uint16_t>(sum);
}
std::uint16_t pseudo_sum(std::span<const std::byte> ip, std::size_t tcp_size) {
    return sum16(ip.subspan(12, 8), static_cast<std::uint32_t>(6 + tcp_size));
}

/// TCP over IPv4 that is still to be cut into segments of 1448 bytes and summed.
Frame tcp_segments(std::size_t payload) {
    Frame frame(Tap::kHeader + kTcpHeaders + payload, std::byte{0x5A});
    std::memset(frame.data(), 0, Tap::kHeader + kTcpHeaders);
    frame[0] = std::byte{kNetNeedsChecksum};
    frame[1] = std::byte{kNetGsoTcp4};
    for (const auto& [at, value] :
         {std::pair<std::size_t, std::uint8_t>{2, kTcpHeaders}, {4, 1448 & 0xFF}, {5, 1448 >> 8}, {6, 34}, {8, 16}}) {
        frame[at] = std::byte{value};
    }
    const std::size_t ip = Tap::kHeader + 14;
    frame[Tap::kHeader + 12] = std::byte{0x08};
    frame[ip] = std::byte{0x45};
    put16(frame, ip + 2, 40 + payload);
    frame[ip + 8] = std::byte{64};
    frame[ip + 9] = std::byte{6};
    frame[ip + 12] = frame[ip + 16] = std::byte{10};
    frame[ip + 15] = std::byte{1};
    frame[ip + 19] = std::byte{2};
    put16(frame, ip + 10, static_cast<std::uint16_t>(~sum16(std::span(frame).subspan(ip, 20))));
    frame[ip + 20 + 12] = std::byte{0x50};
    frame[ip + 20 + 13] = std::byte{0x10};
    put16(frame, ip + 20 + 16, pseudo_sum(std::span(frame).subspan(ip), 20 + payload));
    return frame;
}

/// Returns the same frame as packet sockets have it, with a header of 10 bytes.
Frame for_socket(const Frame& frame) {
    Frame out(frame.begin(), frame.begin() + 10);
    out.insert(out.end(), frame.begin() + Tap::kHeader, frame.end());
    return out;
}

TEST_F(TapTest, WhatCannotBeHadIsSaidWithWhatToDo) {
    const auto missing = open_tap("eth0", "nosuch");
    ASSERT_TRUE(fails(missing, ErrorKind::not_found, "network interface eth0 (tap nosuch)"));
    EXPECT_NE(missing.error().advice().find("ip tuntap add dev nosuch mode tap"), std::string::npos);
    const auto other = open_tap("eth0", "lo");
    ASSERT_TRUE(fails(other, ErrorKind::invalid, "lo) is not a tap"));
    EXPECT_FALSE(other.error().advice().empty());
    for (const std::string name : {"", "tap%d", "a/b", "sixteen-letters-", "a b"}) {
        ASSERT_TRUE(fails(open_tap("eth0", name), ErrorKind::usage)) << name;
    }
    network_.add("one");
    const auto first = open_tap("eth0", "one");
    ASSERT_TRUE(ok(first));
    const auto second = open_tap("eth1", "one");
    ASSERT_TRUE(fails(second, ErrorKind::busy, "network interface eth1 (tap one)"));
    EXPECT_FALSE(second.error().advice().empty());
}

TEST_F(TapTest, AnotherUsersIsRefused) {
    network_.add("one");
    ASSERT_EQ(::seteuid(65534), 0);
    const auto tap = open_tap("eth0", "one");
    ASSERT_EQ(::seteuid(0), 0);
    ASSERT_TRUE(fails(tap, ErrorKind::system));
    EXPECT_TRUE(tap.error().code() == EPERM || tap.error().code() == EACCES) << tap.error().message();
    EXPECT_NE(tap.error().advice().find("root"), std::string::npos);
}

TEST_F(TapTest, FramesGoBothWays) {
    network_.add("one");
    NetRig rig = rig_on("one");
    EXPECT_EQ(rig.status(), kLinkUp);
    const PacketSocket host("one");
    ASSERT_TRUE(rig.give_buffers(64, 1536));
    for (std::uint8_t i = 0; i < 10; ++i) {
        const Frame frame = experiment(60 + 100U * i, i);
        ASSERT_TRUE(host.send(body(frame)));
        const auto got = next(rig);
        ASSERT_TRUE(got.has_value());
        EXPECT_TRUE(std::ranges::equal(body(*got), body(frame))) << int{i};
        EXPECT_EQ((*got)[kNetNumBuffers], std::byte{1});
        ASSERT_TRUE(rig.send(frame));
        const auto sent = host.receive();
        ASSERT_TRUE(sent.has_value());
        EXPECT_TRUE(std::ranges::equal(*sent, body(frame))) << int{i};
    }
    EXPECT_EQ(rig.device().counters().find("received_frames"), 10U);
    EXPECT_EQ(rig.device().counters().find("transmitted_frames"), 10U);
}

TEST_F(TapTest, SegmentsAreLeftToADriverThatCanMakeThem) {
    constexpr std::size_t kPayload = 40'000;
    network_.add("one");
    NetRig rig = rig_on("one");
    const PacketSocket host("one", true);
    ASSERT_TRUE(rig.give_buffers(64, 1536));
    const Frame frame = tcp_segments(kPayload);
    ASSERT_TRUE(host.send(for_socket(frame)));
    auto got = next(rig);
    ASSERT_TRUE(got.has_value());
    EXPECT_EQ(got->size(), frame.size());
    EXPECT_EQ((*got)[0], std::byte{kNetNeedsChecksum});
    EXPECT_EQ((*got)[1], std::byte{kNetGsoTcp4});
    EXPECT_EQ((*got)[kNetNumBuffers], std::byte{27});
    // And from the guest.
    ASSERT_TRUE(rig.send(frame, {12}));
    const auto sent = host.receive();
    ASSERT_TRUE(sent.has_value());
    EXPECT_EQ(sent->size(), frame.size() - 2);
    EXPECT_EQ((*sent)[1], std::byte{kNetGsoTcp4});

    // A driver without the offloads gets segments with checksums.
    rig.connect(kNetMergeBuffers);
    ASSERT_TRUE(rig.give_buffers(64, 1536));
    ASSERT_TRUE(host.send(for_socket(frame)));
    std::size_t payload = 0;
    while (payload < kPayload) {
        got = next(rig);
        ASSERT_TRUE(got.has_value()) << payload;
        EXPECT_EQ((*got)[0], std::byte{0});
        EXPECT_EQ((*got)[1], std::byte{0});
        ASSERT_GT(got->size(), Tap::kHeader + kTcpHeaders);
        ASSERT_LE(got->size(), Tap::kHeader + kTcpHeaders + 1448);
        const auto ip = body(*got).subspan(14);
        EXPECT_EQ(sum16(ip.subspan(20), pseudo_sum(ip, ip.size() - 20)), 0xFFFFU);
        payload += ip.size() - 40;
    }
    EXPECT_EQ(payload, kPayload);
}

TEST_F(TapTest, TheKernelChecksHeaders) {
    network_.add("one");
    NetRig rig = rig_on("one");
    Frame bad = tcp_segments(4000);
    bad[1] = std::byte{77};
    ASSERT_TRUE(rig.send(bad));
    bad = tcp_segments(4000);
    bad[6] = bad[7] = std::byte{0xFF};
    ASSERT_TRUE(rig.send(bad));
    bad = tcp_segments(4000);
    bad[4] = bad[5] = std::byte{0};
    ASSERT_TRUE(rig.send(bad));
    EXPECT_EQ(rig.device().counters().find("transmitted_dropped"), 3U);
    EXPECT_EQ(rig.tx.used_index(), 3U);
    EXPECT_EQ(rig.status(), kLinkUp);
    EXPECT_FALSE(rig.driver->needs_reset());
}

TEST_F(TapTest, GoesDownAndComesBack) {
    network_.add("one", false);
    NetRig rig = rig_on("one");
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    EXPECT_EQ(rig.status(), 0U) << "not up yet";
    for (int i = 0; i < 3; ++i) {
        network_.set_up("one", true);
        const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        while (rig.status() != kLinkUp && std::chrono::steady_clock::now() < until) {
            (void)rig.run();
        }
        ASSERT_EQ(rig.status(), kLinkUp);
        const PacketSocket host("one");
        ASSERT_TRUE(rig.send(experiment(60, 1)));
        EXPECT_TRUE(host.receive().has_value());
        ASSERT_TRUE(host.send(body(experiment(60, 2))));
        EXPECT_TRUE(next(rig).has_value());
        network_.set_up("one", false);
        ASSERT_TRUE(rig.run());
        ASSERT_TRUE(rig.send(experiment(60, 3)));
        EXPECT_EQ(rig.status(), 0U);
        EXPECT_FALSE(rig.fake.loop->run_pending());
    }
}

TEST_F(TapTest, IsDeletedUnderTheGuest) {
    for (const bool buffers : {true, false}) {
        network_.add("one");
        NetRig rig = rig_on("one");
        ASSERT_TRUE(rig.give_buffers(buffers ? 8 : 0, 1536));
        network_.remove("one");
        ASSERT_TRUE(rig.run()) << "it is turned to again and again";
        ASSERT_TRUE(rig.send(experiment(60, 3)));
        EXPECT_EQ(rig.status(), 0U);
        EXPECT_EQ(rig.tx.used_index(), 1U);
        rig.connect(NetRig::kAllFeatures);
        ASSERT_TRUE(rig.give_buffers(8, 1536));
        EXPECT_EQ(rig.status(), 0U);
    }
}

// A tap keeps its settings, and the last process may have set others.
TEST_F(TapTest, WhatTheLastOneLeftDoesNotMatter) {
    network_.add("one");
    const PacketSocket host("one", true);
    {
        NetRig before = rig_on("one");
    }
    const auto tap = open_tap("eth0", "one");
    ASSERT_TRUE(ok(tap));
    ASSERT_TRUE(host.send(for_socket(tcp_segments(2000))));
    Frame frame(Tap::kMaxFrame);
    for (const std::size_t payload : {1448U, 552U}) {
        std::size_t size = 0;
        ASSERT_EQ((*tap)->read(frame, size), TapAnswer::done);
        EXPECT_EQ(size, Tap::kHeader + kTcpHeaders + payload);
        EXPECT_EQ(frame[0], std::byte{0});
        EXPECT_EQ(frame[1], std::byte{0});
    }
}

}  // namespace
}  // namespace snapvm
