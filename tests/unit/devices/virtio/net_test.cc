// SPDX-License-Identifier: Apache-2.0
// The network device with a driver that keeps the rules.
#include "devices/virtio/net/net.h"

#include <gtest/gtest.h>

#include "tests/support/net_rig.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::Frame;
using test::frame_of;
using test::NetRig;
using test::ok;
using namespace virtio;

constexpr std::uint64_t kPlain = 0;  // nothing but VERSION_1
constexpr unsigned kLinkUp = 1;
constexpr unsigned kAnnounceYourself = 2;
constexpr unsigned kAccepted = 0;
constexpr unsigned kRefused = 1;
constexpr std::uint32_t kWholeFrame = 65562;  // a buffer for any (5.1.6.3.1)

/// Returns what the driver must see of a frame in the tap.
Frame with_buffers(Frame frame, unsigned count) {
    frame[kNetNumBuffers] = static_cast<std::byte>(count);
    return frame;
}

TEST(VirtioNet, TellsItsShape) {
    NetRig rig;
    EXPECT_EQ(rig.driver->read(8), 1U);
    const std::uint64_t ours = rig.driver->device_features() & ~(1ULL << 28 | 1ULL << 29 | 1ULL << 32);
    const std::uint64_t uso = kNetGuestUso4 | kNetGuestUso6 | kNetHostUso;
    EXPECT_EQ(ours & ~uso, kNetChecksum | kNetGuestChecksum | kNetControlOffloads | kNetMac | kNetGuestTso4 |
                               kNetGuestTso6 | kNetGuestEcn | kNetHostTso4 | kNetHostTso6 | kNetHostEcn |
                               kNetMergeBuffers | kNetStatus | kNetControlQueue | kNetAnnounce);
    EXPECT_EQ(ours & uso, uso);
    EXPECT_EQ(rig.driver->config<std::uint64_t>(0), 0x0001'0700'0000'0002U);
    EXPECT_EQ(rig.driver->config<std::uint8_t>(5), 7U);
    EXPECT_EQ(rig.driver->config<std::uint32_t>(4), 0x0001'0700U) << "any access";
    EXPECT_EQ(rig.driver->config<std::uint64_t>(8), 0U);
    NetRig old(NetRig::kAllFeatures, 256, "old");
    EXPECT_EQ(old.driver->device_features() & uso, 0U);
}

TEST(VirtioNet, TheTapDoesWhatTheDriverCannot) {
    using namespace tap_offload;
    const unsigned all = kChecksum | kTso4 | kTso6 | kTsoEcn | kUso;
    const std::pair<std::uint64_t, unsigned> rows[] = {
        {NetRig::kAllFeatures, all},
        {kPlain, 0},
        {kNetChecksum | kNetHostTso4 | kNetHostUso, 0},  // of the other direction
        {kNetGuestChecksum, kChecksum},
        {kNetGuestChecksum | kNetGuestTso4, kChecksum | kTso4},
        {kNetGuestChecksum | kNetGuestTso6 | kNetGuestEcn, kChecksum | kTso6 | kTsoEcn},
        {kNetGuestChecksum | kNetGuestUso4 | kNetGuestUso6, kChecksum | kUso},
        // Without what they build upon.
        {kNetGuestTso4 | kNetGuestTso6, 0},
        {kNetGuestChecksum | kNetGuestEcn, kChecksum},
        {kNetGuestChecksum | kNetGuestUso4, kChecksum},
    };
    NetRig rig;
    for (const auto& [features, wanted] : rows) {
        rig.connect(features);
        EXPECT_EQ(rig.tap->offloads, wanted) << std::hex << features;
        rig.driver->write(0x70, 0);
        EXPECT_EQ(rig.tap->offloads, 0U) << "until the next driver has said what it can";
    }
    rig.connect(NetRig::kAllFeatures);
    rig.restore();
    EXPECT_EQ(rig.tap->offloads, all) << "the new tap knows as well";
}

TEST(VirtioNet, FramesComeInWithTheirHeaders) {
    for (const std::uint64_t features : {NetRig::kAllFeatures, NetRig::kAllFeatures & ~kNetMergeBuffers}) {
        NetRig rig(features);
        ASSERT_TRUE(rig.give_buffers(4, kWholeFrame));
        const Frame plain = frame_of(60);
        const Frame segments = frame_of(65000, 3, kNetNeedsChecksum, kNetGsoTcp4);
        rig.tap->put(plain);
        rig.tap->put(segments);
        ASSERT_TRUE(rig.run());
        EXPECT_EQ(rig.receive(), with_buffers(plain, 1));
        EXPECT_EQ(rig.used, std::vector<std::uint32_t>{72});
        EXPECT_EQ(rig.receive(), with_buffers(segments, 1));
        EXPECT_FALSE(rig.receive().has_value());
        EXPECT_EQ(rig.device().counters().find("received_frames"), 2U);
        EXPECT_EQ(rig.device().counters().find("received_bytes"), 65060U);
    }
}

TEST(VirtioNet, AFrameFillsAsManyBuffersAsItNeeds) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(64, 1536));
    const Frame large = frame_of(40'000, 9, kNetNeedsChecksum, kNetGsoTcp6);
    const Frame small = frame_of(1524, 7);
    rig.tap->put(large);
    rig.tap->put(small);
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.receive(), with_buffers(large, 27));
    ASSERT_EQ(rig.used.size(), 27U);
    EXPECT_TRUE(std::ranges::all_of(std::span(rig.used).first(26), [](std::uint32_t bytes) { return bytes == 1536; }));
    EXPECT_EQ(rig.used.back(), 40'012U - 26 * 1536);
    EXPECT_EQ(rig.receive(), with_buffers(small, 1)) << "one to the last byte";
    // The least that a buffer may be: the first has the header, and no more.
    NetRig tiny;
    ASSERT_TRUE(tiny.give_buffers(20, 12));
    tiny.tap->put(frame_of(228));
    ASSERT_TRUE(tiny.run());
    EXPECT_EQ(tiny.receive(), with_buffers(frame_of(228), 20));
}

TEST(VirtioNet, FramesGoOutAsTheyAre) {
    NetRig rig;
    const Frame plain = frame_of(60);
    const Frame segments = frame_of(65000, 3, kNetNeedsChecksum, kNetGsoTcp4);
    ASSERT_TRUE(rig.send(plain));
    ASSERT_TRUE(rig.send(plain, {12}));
    ASSERT_TRUE(rig.send(plain, {5, 13, 14, 40}));
    ASSERT_TRUE(rig.send(segments, {12, 4096, 40'000}));
    EXPECT_EQ(rig.tap->sent, (std::vector<Frame>{plain, plain, plain, segments}));
    for (int i = 0; i < 4; ++i) {
        const auto used = rig.tx.take();
        ASSERT_TRUE(used.has_value());
        EXPECT_EQ(used->written, 0U);
    }
    EXPECT_EQ(rig.device().counters().find("transmitted_frames"), 4U);
    EXPECT_EQ(rig.device().counters().find("transmitted_bytes"), 65180U);
}

TEST(VirtioNet, ABatchIsOneInterrupt) {
    for (const std::uint64_t features : {NetRig::kAllFeatures, NetRig::kAllFeatures & ~NetRig::kEventIndex}) {
        NetRig rig(features);
        for (int i = 0; i < 100; ++i) {
            rig.tap->put(frame_of(100));
        }
        ASSERT_TRUE(rig.run());
        EXPECT_EQ(rig.fake.edges, 0);
        ASSERT_TRUE(rig.give_buffers(128, 1536));
        EXPECT_EQ(rig.rx.used_index(), 100U);
        EXPECT_EQ(rig.fake.edges, 1);
        for (int i = 0; i < 100; ++i) {
            rig.add_frame(frame_of(100));
        }
        rig.driver->notify(kTransmit);
        ASSERT_TRUE(rig.run());
        EXPECT_EQ(rig.tap->sent.size(), 100U);
        EXPECT_EQ(rig.fake.edges, 2);
    }
}

// Trap: the tap is read or watched although there is no buffer for a frame.
TEST(VirtioNet, FramesWaitInTheTapForBuffers) {
    for (const std::uint64_t features : {NetRig::kAllFeatures, NetRig::kAllFeatures & ~NetRig::kEventIndex}) {
        NetRig rig(features);
        for (std::uint8_t i = 0; i < 5; ++i) {
            rig.tap->put(frame_of(60, i));
        }
        ASSERT_TRUE(rig.run()) << "and nobody turns round meanwhile";
        EXPECT_EQ(rig.tap->reads, 0);
        ASSERT_TRUE(rig.give_buffers(2, 1536));
        EXPECT_EQ(rig.tap->waiting.size(), 3U);
        EXPECT_FALSE(rig.fake.loop->run_pending());
        ASSERT_TRUE(rig.give_buffers(4, 1536));
        EXPECT_EQ(rig.tap->waiting.size(), 0U);
        for (std::uint8_t i = 0; i < 5; ++i) {
            EXPECT_EQ(rig.receive(), with_buffers(frame_of(60, i), 1));
        }
        rig.tap->put(frame_of(60, 5));
        ASSERT_TRUE(rig.run());
        EXPECT_EQ(rig.receive(), with_buffers(frame_of(60, 5), 1)) << "watched again";
    }
}

TEST(VirtioNet, ALargeFrameWaitsForEnoughBuffers) {
    for (const std::uint64_t features : {NetRig::kAllFeatures, NetRig::kAllFeatures & ~NetRig::kEventIndex}) {
        NetRig rig(features);
        const Frame large = frame_of(20'000);
        ASSERT_TRUE(rig.give_buffers(4, 1536));
        rig.tap->put(large);
        rig.tap->put(frame_of(60));
        ASSERT_TRUE(rig.run());
        EXPECT_EQ(rig.rx.used_index(), 0U) << "nothing of it";
        EXPECT_EQ(rig.tap->waiting.size(), 1U);
        if ((features & NetRig::kEventIndex) != 0) {
            EXPECT_EQ(rig.rx.available_event(), 4U) << "told of a fifth";
        } else {
            EXPECT_EQ(rig.rx.used_flags(), 0U);
        }
        ASSERT_TRUE(rig.give_buffers(4, 1536));
        EXPECT_EQ(rig.rx.used_index(), 0U);
        ASSERT_TRUE(rig.give_buffers(16, 1536));
        EXPECT_EQ(rig.receive(), with_buffers(large, 14));
        EXPECT_TRUE(rig.receive().has_value());
        EXPECT_EQ(rig.device().counters().find("received_dropped"), 0U);
    }
}

TEST(VirtioNet, AFrameThatNeverFitsHoldsUpNothing) {
    NetRig rig(NetRig::kAllFeatures & ~kNetMergeBuffers);
    ASSERT_TRUE(rig.give_buffers(2, 1526));
    rig.tap->put(frame_of(1515));
    rig.tap->put(frame_of(1514));
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.receive(), with_buffers(frame_of(1514), 1));
    EXPECT_EQ(rig.device().counters().find("received_dropped"), 1U);
    EXPECT_FALSE(rig.driver->needs_reset());
    // Merged, with a queue that cannot hold enough: by its chains, and by its descriptors.
    NetRig small(NetRig::kAllFeatures, 8);
    ASSERT_TRUE(small.give_buffers(8, 1536));
    small.tap->put(frame_of(20'000));
    small.tap->put(frame_of(60));
    ASSERT_TRUE(small.run());
    EXPECT_EQ(small.receive(), with_buffers(frame_of(60), 1));
    NetRig pairs(NetRig::kAllFeatures, 8);
    for (unsigned i = 0; i < 4; ++i) {
        pairs.rx.add({{NetRig::kBuffers + 4096ULL * i, 12, true}, {NetRig::kBuffers + 4096ULL * i + 12, 2000, true}});
    }
    pairs.driver->notify(kReceive);
    pairs.tap->put(frame_of(20'000));
    pairs.tap->put(frame_of(60));
    ASSERT_TRUE(pairs.run());
    EXPECT_EQ(pairs.rx.used_index(), 1U);
    // Longer than there are any, and shorter.
    NetRig odd;
    ASSERT_TRUE(odd.give_buffers(8, kWholeFrame));
    odd.tap->put(frame_of(70'000));
    odd.tap->put(frame_of(13));
    odd.tap->put(Frame(3));
    odd.tap->put({});
    odd.tap->put(frame_of(14));
    ASSERT_TRUE(odd.run());
    EXPECT_EQ(odd.receive(), with_buffers(frame_of(14), 1));
    EXPECT_EQ(odd.device().counters().find("received_dropped"), 4U);
}

// A frame may have been queued for an earlier driver, which could do more than this one.
TEST(VirtioNet, AFrameThatTheDriverCannotFinishIsLeftOut) {
    struct Row {
        std::uint64_t features;
        std::uint8_t flags;
        std::uint8_t segments;
        bool taken;
    };
    constexpr std::uint8_t kFoundRight = 2;
    const std::uint64_t tcp = kNetGuestChecksum | kNetGuestTso4;
    for (const Row& row : {Row{kPlain, kNetNeedsChecksum, 0, false}, Row{kPlain, 0, kNetGsoTcp4, false},
                           Row{kPlain, kFoundRight, 0, true}, Row{kNetGuestChecksum, kNetNeedsChecksum, 0, true},
                           Row{kNetGuestChecksum, kFoundRight, 0, true}, Row{kNetGuestChecksum, 1, kNetGsoTcp4, false},
                           Row{tcp, 1, kNetGsoTcp4, true}, Row{tcp, 1, kNetGsoTcp4 | kNetGsoEcn, false},
                           Row{tcp | kNetGuestEcn, 1, kNetGsoTcp4 | kNetGsoEcn, true}, Row{tcp, 1, kNetGsoTcp6, false},
                           Row{tcp, 1, kNetGsoUdp, false}, Row{NetRig::kAllFeatures, 1, kNetGsoUdp, true},
                           Row{NetRig::kAllFeatures, 1, 3, false}}) {
        NetRig rig(row.features);
        ASSERT_TRUE(rig.give_buffers(2, kWholeFrame));
        rig.tap->put(frame_of(100, 1, row.flags, row.segments));
        ASSERT_TRUE(rig.run());
        const auto frame = rig.receive();
        EXPECT_EQ(frame.has_value(), row.taken)
            << std::hex << row.features << ' ' << int{row.flags} << ' ' << int{row.segments};
        if (frame) {
            const bool may_trust = (row.features & kNetGuestChecksum) != 0;
            EXPECT_EQ((*frame)[0], std::byte{may_trust ? row.flags : std::uint8_t{0}});
        }
    }
}

TEST(VirtioNet, MemoryThatFramesComeIntoIsMarked) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(1, 8192));
    MemoryBlock& ram = rig.fake.memory.blocks()[0];
    std::vector<std::uint64_t> words(ram.spec().size / kPageSize / 64);
    ram.marks().collect(words);
    rig.tap->put(frame_of(5000));
    ASSERT_TRUE(rig.run());
    ram.marks().collect(words);
    const auto marked = [&](Gpa at) {
        return (words[at.value / kPageSize / 64] >> (at.value / kPageSize % 64) & 1) != 0;
    };
    EXPECT_TRUE(marked(NetRig::kBuffers));
    EXPECT_TRUE(marked(NetRig::kBuffers + 4096));
    EXPECT_FALSE(marked(NetRig::kBuffers + 8192));
    EXPECT_TRUE(marked(rig.rx.used()));
}

TEST(VirtioNet, AHoldLetsNothingInOrOut) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    rig.fake.loop->quiesce();
    rig.tap->put(frame_of(60));
    rig.add_frame(frame_of(60));
    rig.driver->notify(kTransmit);
    const int reads = rig.tap->reads;
    while (rig.fake.loop->run_pending()) {
    }
    EXPECT_EQ(rig.tap->reads, reads);
    EXPECT_EQ(rig.tap->waiting.size(), 1U);
    EXPECT_EQ(rig.tap->sent.size(), 0U);
    EXPECT_EQ(rig.rx.used_index(), 0U);
    rig.fake.loop->thaw();
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.rx.used_index(), 1U);
    EXPECT_EQ(rig.tap->sent.size(), 1U);
}

TEST(VirtioNet, ARestoredGuestIsAskedToAnnounceItself) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    const StateRecord before = rig.attached.device->save();
    rig.restore();
    EXPECT_EQ(rig.fake.edges, 1);
    EXPECT_EQ(rig.driver->acknowledge(), 2U) << "the configuration has changed";
    EXPECT_EQ(rig.status(), kLinkUp | kAnnounceYourself);
    EXPECT_FALSE(rig.attached.device->save() == before);
    // Taken again before the driver has come to it.
    rig.restore();
    EXPECT_EQ(rig.status(), kLinkUp | kAnnounceYourself);
    EXPECT_EQ(rig.command({3, 0}), kAccepted);
    EXPECT_EQ(rig.status(), kLinkUp);
    // And goes on with the buffers that it had.
    rig.tap->put(frame_of(60));
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.receive(), with_buffers(frame_of(60), 1));
    rig.driver->write(0x70, 0);
    rig.restore();
    EXPECT_EQ(rig.status(), kLinkUp) << "no driver to ask";
}

TEST(VirtioNet, ADriverThatKnowsNoAnnouncementIsNotAskedForOne) {
    for (const auto& [features, causes] :
         {std::pair{kPlain, 0U}, {kNetStatus, 2U}, {kNetAnnounce | kNetControlQueue, 0U}}) {
        NetRig rig(features);
        rig.restore();
        EXPECT_EQ(rig.driver->acknowledge(), causes) << features;
        EXPECT_EQ(rig.status(), kLinkUp);
    }
}

TEST(VirtioNet, CommandsAreCarriedOutOrRefused) {
    NetRig rig;
    EXPECT_EQ(rig.command({3, 0}), kAccepted);
    EXPECT_EQ(rig.command({3, 1}), kRefused);
    EXPECT_EQ(rig.command({0, 0, 1}), kRefused) << "promiscuous";
    EXPECT_EQ(rig.command({1, 1, 2, 0, 0, 0, 0, 9}), kRefused) << "another MAC";
    EXPECT_EQ(rig.command({4, 0, 2, 0}), kRefused) << "queues";
    EXPECT_EQ(rig.command({255, 255}), kRefused);
    EXPECT_EQ(rig.command({3}), kRefused);
    EXPECT_EQ(rig.command({}), kRefused);
    NetRig without(kNetControlQueue);
    EXPECT_EQ(without.command({3, 0}), kRefused);
    EXPECT_EQ(without.command({5, 0, 0, 0, 0, 0, 0, 0, 0, 0}), kRefused);
    EXPECT_FALSE(without.driver->needs_reset());
}

TEST(VirtioNet, OffloadsAreSwitchedOffAndOn) {
    using namespace tap_offload;
    NetRig rig;
    const unsigned all = rig.tap->offloads;
    EXPECT_EQ(rig.command({5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0}), kAccepted);
    EXPECT_EQ(rig.tap->offloads, kChecksum | kTso4);
    ASSERT_TRUE(rig.give_buffers(4, 1536));
    rig.tap->put(frame_of(100, 1, 1, kNetGsoTcp6));
    ASSERT_TRUE(rig.run());
    EXPECT_FALSE(rig.receive().has_value());
    rig.restore();
    EXPECT_EQ(rig.tap->offloads, kChecksum | kTso4) << "kept by a snapshot";
    EXPECT_EQ(rig.command({5, 0, 0x82, 0x40, 0, 0, 0, 0, 0, 0}), kRefused) << "host's, and none of these";
    EXPECT_EQ(rig.command({5, 0, 0x82, 0, 0, 0, 0, 0, 0}), kRefused) << "a byte short";
    EXPECT_EQ(rig.tap->offloads, kChecksum | kTso4);
    EXPECT_EQ(rig.command({5, 0, 0x82, 0x03, 0, 0, 0, 0, 0xC0, 0}), kAccepted);
    EXPECT_EQ(rig.tap->offloads, all);
    rig.connect(NetRig::kAllFeatures);
    EXPECT_EQ(rig.tap->offloads, all) << "the next driver begins with all of its own";
    rig.connect(kNetGuestChecksum | kNetControlOffloads | kNetControlQueue);
    EXPECT_EQ(rig.command({5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0}), kRefused) << "not agreed on";
}

}  // namespace
}  // namespace snapvm
