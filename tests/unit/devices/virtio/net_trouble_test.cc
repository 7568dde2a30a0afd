// SPDX-License-Identifier: Apache-2.0
// The network device with a driver that breaks all rules, and with a tap that fails.
#include <gtest/gtest.h>

#include <random>

#include "devices/virtio/net/net.h"
#include "tests/support/net_rig.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::DriverQueue;
using test::fails;
using test::Frame;
using test::frame_of;
using test::NetRig;
using test::ok;
using namespace virtio;

constexpr unsigned kLinkUp = 1;

TEST(VirtioNet, AFrameThatMakesNoSenseGoesNowhere) {
    NetRig rig;
    ASSERT_TRUE(rig.send(frame_of(13)));
    ASSERT_TRUE(rig.send(Frame(3)));
    ASSERT_TRUE(rig.send(frame_of(65'554)));
    rig.tx.add({{NetRig::kSent, 0, false}});
    rig.tx.add({{NetRig::kSent, 100, true}});
    rig.driver->notify(kTransmit);
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.tap->writes, 0);
    EXPECT_EQ(rig.device().counters().find("transmitted_dropped"), 5U);
    EXPECT_EQ(rig.tx.used_index(), 5U) << "the driver has its buffers back";
    // This frame's fault is noticed by the kernel only.
    rig.tap->refuse = true;
    ASSERT_TRUE(rig.send(frame_of(60, 1, 1, 77)));
    EXPECT_EQ(rig.device().counters().find("transmitted_dropped"), 6U);
    rig.tap->refuse = false;
    ASSERT_TRUE(rig.send(frame_of(14)));
    ASSERT_TRUE(rig.send(frame_of(65'553)));
    EXPECT_EQ(rig.tap->sent.size(), 2U);
    EXPECT_EQ(rig.status(), kLinkUp);
    EXPECT_FALSE(rig.driver->needs_reset());
}

TEST(VirtioNet, ATapWithoutRoomIsWaitedFor) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    rig.tap->block(TapAnswer::later);
    for (std::uint8_t i = 0; i < 3; ++i) {
        ASSERT_TRUE(rig.send(frame_of(60, i)));
    }
    EXPECT_EQ(rig.tx.used_index(), 0U);
    EXPECT_EQ(rig.status(), kLinkUp);
    rig.tap->put(frame_of(60));
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.rx.used_index(), 1U) << "the other way is open";
    rig.tap->unblock();
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.tap->sent, (std::vector<Frame>{frame_of(60, 0), frame_of(60, 1), frame_of(60, 2)}));
    EXPECT_EQ(rig.tx.used_index(), 3U);
    EXPECT_EQ(rig.device().counters().find("transmitted_dropped"), 0U);
}

TEST(VirtioNet, WhatWaitsForTheTapIsSentByTheRestoredMachine) {
    NetRig rig;
    rig.tap->block(TapAnswer::later);
    ASSERT_TRUE(rig.send(frame_of(60)));
    rig.restore();
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.tap->sent, std::vector<Frame>{frame_of(60)});
}

TEST(VirtioNet, TheLinkIsDownWhileTheTapIs) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    rig.tap->block(TapAnswer::down);
    ASSERT_TRUE(rig.run());
    ASSERT_TRUE(rig.send(frame_of(60)));
    EXPECT_EQ(rig.status(), 0U);
    EXPECT_EQ(rig.driver->acknowledge(), 3U) << "a used buffer, and a changed configuration";
    EXPECT_EQ(rig.tx.used_index(), 1U) << "the driver has its buffer back";
    EXPECT_EQ(rig.device().counters().find("transmitted_dropped"), 1U);
    EXPECT_FALSE(rig.fake.loop->run_pending());
    rig.tap->unblock();
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.status(), kLinkUp);
    EXPECT_EQ(rig.driver->acknowledge(), 2U);
    ASSERT_TRUE(rig.send(frame_of(60)));
    EXPECT_EQ(rig.tap->sent.size(), 1U);
    rig.tap->put(frame_of(60));
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.rx.used_index(), 1U);
}

TEST(VirtioNet, ATapThatIsDownAtTheStartIsNoticedWhenItComesUp) {
    NetRig rig;
    rig.driver->write(0x70, 0);
    rig.tap->block(TapAnswer::down);
    rig.restore();  // a new tap
    rig.tap->block(TapAnswer::down);
    EXPECT_EQ(rig.status(), kLinkUp) << "nobody looks while there is no driver";
    rig.connect(NetRig::kAllFeatures);
    EXPECT_EQ(rig.status(), 0U);
    rig.tap->unblock();
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.status(), kLinkUp);
}

// Trap: the descriptor of a deleted tap is ready for ever, to report the deletion.
TEST(VirtioNet, ATapThatIsGoneIsLeftAlone) {
    for (const bool watched_for_room : {false, true}) {
        for (const unsigned buffers : {0U, 8U}) {
            NetRig rig;
            ASSERT_TRUE(rig.give_buffers(buffers, 1536));
            if (watched_for_room) {
                rig.tap->block(TapAnswer::later);
                ASSERT_TRUE(rig.send(frame_of(60)));
            }
            rig.tap->lose();
            ASSERT_TRUE(rig.run()) << "it is turned to again and again";
            if (buffers > 0 || watched_for_room) {
                EXPECT_EQ(rig.status(), 0U);
            }
            const int reads = rig.tap->reads;
            ASSERT_TRUE(rig.send(frame_of(60)));
            ASSERT_TRUE(rig.give_buffers(4, 1536));
            EXPECT_EQ(rig.status(), 0U) << "noticed by a frame at the latest";
            EXPECT_EQ(rig.tx.used_index(), watched_for_room ? 2U : 1U);
            EXPECT_EQ(rig.tap->reads, reads);
            rig.connect(NetRig::kAllFeatures);
            EXPECT_EQ(rig.status(), 0U) << "for the next driver too";
            rig.restore();
            EXPECT_EQ(rig.status() & kLinkUp, kLinkUp) << "another process has another tap";
        }
    }
}

TEST(VirtioNet, ABufferWithoutRoomForAHeaderNeedsAReset) {
    for (const std::uint32_t size : {1U, 11U}) {
        for (const bool at_once : {true, false}) {
            NetRig rig;
            if (at_once) {
                rig.tap->put(frame_of(60));
            }
            ASSERT_TRUE(rig.give_buffers(4, size));
            rig.tap->put(frame_of(60));
            ASSERT_TRUE(rig.run()) << "found when a frame comes, too";
            EXPECT_TRUE(rig.driver->needs_reset()) << size;
            EXPECT_EQ(rig.driver->acknowledge(), 2U);
            rig.connect(NetRig::kAllFeatures);
            ASSERT_TRUE(rig.give_buffers(4, 1536));
            EXPECT_EQ(rig.rx.used_index(), at_once ? 1U : 0U)
                << "one is lost, what waited in the tap comes to the next driver";
        }
    }
    NetRig later;
    ASSERT_TRUE(later.give_buffers(1, 100));
    ASSERT_TRUE(later.give_buffers(1, 8));
    later.tap->put(frame_of(90));
    ASSERT_TRUE(later.run());
    EXPECT_TRUE(later.driver->needs_reset()) << "the second of a frame's";
    NetRig readable;
    readable.rx.add({{NetRig::kBuffers, 2000, false}});
    readable.driver->notify(kReceive);
    readable.tap->put(frame_of(60));
    ASSERT_TRUE(readable.run());
    EXPECT_TRUE(readable.driver->needs_reset()) << "nothing to write to";
}

TEST(VirtioNet, ARingThatMakesNoSenseNeedsAResetAndStopsAll) {
    for (const std::size_t queue : {kReceive, kTransmit, kControl}) {
        NetRig rig;
        ASSERT_TRUE(rig.give_buffers(8, 1536));
        (queue == kReceive ? rig.rx : queue == kTransmit ? rig.tx : rig.control).set_available_index(30'000);
        rig.driver->notify(static_cast<std::uint32_t>(queue));
        ASSERT_TRUE(rig.run());
        EXPECT_TRUE(rig.driver->needs_reset()) << queue;
        const int reads = rig.tap->reads;
        rig.tap->put(frame_of(60));
        ASSERT_TRUE(rig.run());
        EXPECT_EQ(rig.tap->reads, reads) << "nothing comes to a driver that is not believed";
        rig.connect(NetRig::kAllFeatures);
        ASSERT_TRUE(rig.give_buffers(8, 1536));
        EXPECT_EQ(rig.rx.used_index(), 1U);
    }
    // Found only when a frame comes, by the tap's call.
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    rig.rx.set_available_index(30'000);
    rig.tap->put(frame_of(60));
    ASSERT_TRUE(rig.run());
    EXPECT_TRUE(rig.driver->needs_reset());
}

TEST(VirtioNet, ACommandWithoutAPlaceForItsAnswerNeedsAReset) {
    NetRig rig;
    rig.control.add({{NetRig::kCommand, 2, false}});
    rig.driver->notify(kControl);
    ASSERT_TRUE(rig.run());
    EXPECT_TRUE(rig.driver->needs_reset());
}

TEST(VirtioNet, ADriverThatGoesTakesTheWatchAlong) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    rig.driver->write(0x70, 0);
    rig.tap->put(frame_of(60));
    EXPECT_FALSE(rig.fake.loop->run_pending());
    rig.connect(NetRig::kAllFeatures);
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    EXPECT_EQ(rig.rx.used_index(), 1U);
    // The same for one queue.
    rig.driver->write(0x30, kReceive);
    rig.driver->write(0x44, 0);
    rig.tap->put(frame_of(60));
    ASSERT_TRUE(rig.run());
    EXPECT_FALSE(rig.fake.loop->run_pending());
    EXPECT_EQ(rig.tap->waiting.size(), 1U);
    ASSERT_TRUE(rig.send(frame_of(60)));
    EXPECT_EQ(rig.tap->sent.size(), 1U);
}

// A queue with much work must let other work in between.
TEST(VirtioNet, ATurnEnds) {
    NetRig rig;
    rig.tap->keep_sent = false;
    rig.tx.write_descriptor(0, NetRig::kSent, 60'000, 0, 0);
    for (int i = 0; i < 200; ++i) {
        rig.tx.offer(0);
    }
    rig.driver->notify(kTransmit);
    ASSERT_TRUE(rig.fake.loop->run_pending());
    EXPECT_LT(rig.tap->writes, 30);
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.tap->writes, 200);
    for (int i = 0; i < 600; ++i) {
        rig.tap->put(frame_of(60));
    }
    rig.rx.write_descriptor(0, NetRig::kBuffers, 1536, DriverQueue::kWrite, 0);
    for (int i = 0; i < 256; ++i) {
        rig.rx.offer(0);
    }
    rig.tap->reads = 0;
    rig.driver->notify(kReceive);
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.rx.used_index(), 256U);
    EXPECT_EQ(rig.tap->reads, 256);
}

// The tap is the host's: frames in it, and the frames that it has no room for, wait on.
TEST(VirtioNet, AfterAStateIsAdoptedTheTapIsUsedOnlyOnceTheMachineRuns) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    rig.tap->block(TapAnswer::later);
    ASSERT_TRUE(rig.send(frame_of(60)));
    EXPECT_NE(rig.tap->offloads, 0U);
    rig.adopt();
    EXPECT_EQ(rig.tap->offloads, 0U) << "until a driver has said what it can";
    rig.tap->unblock();
    rig.tap->put(frame_of(70));
    rig.tap->reads = rig.tap->writes = 0;
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.tap->reads, 0);
    EXPECT_EQ(rig.tap->writes, 0);
    ASSERT_TRUE(ok(rig.attached.device->restored()));
    ASSERT_TRUE(rig.run());
    EXPECT_NE(rig.tap->offloads, 0U);
    EXPECT_EQ(rig.tap->sent.size(), 1U);
    EXPECT_EQ(rig.receive()->size(), frame_of(70).size());
}

TEST(VirtioNet, AFrameThatWaitsForBuffersIsLostWhenAStateIsAdopted) {
    NetRig rig;
    ASSERT_TRUE(rig.give_buffers(1, 64));
    rig.tap->put(frame_of(300));
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.tap->waiting.size(), 0U);
    rig.adopt();
    ASSERT_TRUE(ok(rig.attached.device->restored()));
    ASSERT_TRUE(rig.give_buffers(8, 1536));
    EXPECT_FALSE(rig.receive().has_value());
    rig.tap->put(frame_of(60));
    ASSERT_TRUE(rig.run());
    EXPECT_EQ(rig.receive()->size(), frame_of(60).size());
}

TEST(VirtioNet, ForgedRecordsAreRefused) {
    for (const std::uint64_t off : {1ULL, 1ULL << 11, ~0ULL}) {
        Encoder out;
        NetStateV1{.switched_off = off}.encode(out);
        Decoder in(out.bytes());
        EXPECT_TRUE(fails(Net({2}, std::make_unique<test::FakeTap>(true)).parse(in), ErrorKind::invalid));
    }
}

TEST(VirtioNet, NoiseDoesNoHarm) {
    std::mt19937 random(17);
    for (int round = 0; round < 200; ++round) {
        NetRig rig(random() | static_cast<std::uint64_t>(random()) << 32, 16, round % 4 == 0 ? "old" : "tap0");
        for (int step = 0; step < 60; ++step) {
            DriverQueue& queue = step % 3 == 0 ? rig.rx : step % 3 == 1 ? rig.tx : rig.control;
            for (std::uint16_t i = 0; i < 16; ++i) {
                const std::uint64_t at = random() % 10 == 0 ? random() : NetRig::kBuffers.value + random() % 0x80000;
                queue.write_descriptor(i, Gpa{at}, random() % 3000,
                                       static_cast<std::uint16_t>(random() % 8 < 7 ? random() % 4 : random()),
                                       static_cast<std::uint16_t>(random() % 17));
            }
            for (unsigned i = random() % 6; i > 0; --i) {
                queue.offer(static_cast<std::uint16_t>(random() % 16));
            }
            if (random() % 2 == 0) {
                rig.tap->put(frame_of(random() % 5000, 0, random() % 3, random() % 6));
            }
            switch (random() % 16) {
                case 0: rig.tap->block(random() % 2 == 0 ? TapAnswer::down : TapAnswer::later); break;
                case 1: rig.tap->unblock(); break;
                case 2: rig.tap->refuse = !rig.tap->refuse; break;
                case 3: rig.restore(); break;
                case 4: rig.driver->write(0x44, random() % 2); break;
                case 5: rig.driver->write(0x30, random() % 4); break;
                case 6: rig.connect(random()); break;
                case 7:
                    if (random() % 8 == 0) {
                        rig.tap->lose();
                    }
                    break;
                default: rig.driver->notify(0); break;
            }
            ASSERT_TRUE(rig.run());
        }
    }
}

}  // namespace
}  // namespace snapvm
