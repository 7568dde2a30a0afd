// SPDX-License-Identifier: Apache-2.0
// A block device that stops on write errors: what it keeps, tries again, saves and drops.
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/blk/blk.h"
#include "tests/support/blk_rig.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/devices/virtio/blk_requests.h"

namespace snapvm {
namespace {

using namespace test;  // the requests

/// A disk that stops on write errors.
struct Stopping {
    Stopping() {
        auto made = std::make_unique<FakeDisk>(kDiskSize);
        disk = made.get();
        rig = std::make_unique<BlkRig>(std::move(made), BlkRig::kAllFeatures & ~BlkRig::kEventIndex, 256,
                                       WriteErrors::stop);
    }
    void write(unsigned index, std::uint64_t sector) const {
        rig->add(index, kOut, sector, {{kData + 512ULL * index, 512, false}});
        rig->notify();
    }
    void finish(int error) const {
        disk->finish_one(error);
        rig->run();
    }
    std::uint16_t used() const { return rig->queue.used_index(); }
    FakeDisk* disk;
    std::unique_ptr<BlkRig> rig;
};

TEST(VirtioBlkStops, AFailedWriteIsKeptAndTriedAgain) {
    Stopping fake;
    fake.rig->queue.store(kData, 0xABU);
    fake.write(0, 3);
    fake.write(1, 4);
    fake.finish(ENOSPC);
    EXPECT_EQ(fake.used(), 0U) << "the guest sees nothing";
    EXPECT_EQ(fake.rig->status(0), kUntouched);
    ASSERT_EQ(fake.rig->host.pauses.size(), 1U);
    EXPECT_NE(fake.rig->host.pauses[0].find("no space is left"), std::string::npos) << fake.rig->host.pauses[0];
    // What is in flight is answered. Nothing new begins.
    fake.finish(0);
    EXPECT_EQ(fake.rig->status(1), kOk);
    fake.write(2, 5);
    EXPECT_EQ(fake.disk->in_flight(), 0U);
    EXPECT_TRUE(fake.rig->host.loop->quiesce()) << "a kept request is not in flight";
    fake.rig->host.loop->thaw();
    fake.rig->go_on();
    EXPECT_EQ(fake.disk->in_flight(), 2U);
    EXPECT_EQ(fake.disk->waiting.front()->offset, 3U * 512) << "the kept one first";
    fake.finish(0);
    fake.finish(0);
    EXPECT_EQ(fake.rig->status(0), kOk);
    EXPECT_EQ(fake.rig->status(2), kOk);
    EXPECT_EQ(fake.disk->bytes[3 * 512], std::byte{0xAB});
    EXPECT_EQ(fake.used(), 3U);
}

TEST(VirtioBlkStops, ItStopsAgainIfThereIsStillNoRoom) {
    Stopping fake;
    fake.write(0, 3);
    for (int i = 0; i < 3; ++i) {
        fake.finish(EDQUOT);
        EXPECT_EQ(fake.rig->host.pauses.size(), i + 1U);
        fake.rig->go_on();
    }
    fake.finish(0);
    EXPECT_EQ(fake.rig->status(0), kOk);
}

TEST(VirtioBlkStops, EveryKindOfWriteAndNoRead) {
    Stopping fake;
    fake.rig->queue.store(kData, std::uint64_t{10});
    fake.rig->queue.store(kData + 8, 2U);
    fake.rig->queue.store(kData + 12, 0U);
    unsigned kept = 0;
    for (const std::uint32_t type : {kFlush, kDiscard, kWriteZeroes}) {
        fake.rig->add(
            kept, type, 0,
            type == kFlush ? std::vector<DriverQueue::Buffer>() : std::vector<DriverQueue::Buffer>{{kData, 16, false}});
        fake.rig->notify();
        fake.finish(EIO);
        EXPECT_EQ(fake.used(), kept);
        EXPECT_EQ(fake.rig->host.pauses.size(), ++kept);
        fake.rig->go_on();
        fake.finish(0);
        EXPECT_EQ(fake.used(), kept);
    }
    fake.rig->add(kept, kIn, 0, {{kData, 512, true}});
    fake.rig->notify();
    fake.finish(EIO);
    EXPECT_EQ(fake.rig->status(kept), kIoError);
    EXPECT_EQ(fake.rig->host.pauses.size(), kept);
}

TEST(VirtioBlkStops, ASavedDeviceHasTheKeptRequests) {
    Stopping fake;
    const std::size_t plain = fake.rig->blk->save().bytes.size();
    fake.write(0, 3);
    fake.write(1, 4);
    fake.finish(ENOSPC);
    fake.finish(0);
    const StateRecord record = fake.rig->blk->save();
    EXPECT_EQ(record.bytes.size(), plain + 4) << "a number and a head";
    ASSERT_TRUE(ok(test::adopt_record(*fake.rig->blk, record)));
    EXPECT_EQ(fake.rig->blk->save(), record);
    ASSERT_TRUE(ok(fake.rig->blk->restored()));
    fake.rig->run();
    ASSERT_EQ(fake.disk->in_flight(), 1U);
    EXPECT_EQ(fake.disk->waiting.front()->offset, 3U * 512);
    fake.finish(0);
    EXPECT_EQ(fake.rig->status(0), kOk);
    EXPECT_EQ(fake.rig->blk->save().bytes.size(), plain);
    StateRecord empty = record;
    empty.bytes.resize(plain + 2);
    empty.bytes[plain] = std::byte{0};
    EXPECT_TRUE(fails(fake.rig->blk->parse(empty), ErrorKind::invalid, "malformed"));
}

TEST(VirtioBlkStops, AResetDropsTheKeptRequests) {
    Stopping fake;
    fake.write(0, 3);
    fake.finish(ENOSPC);
    fake.rig->connect(BlkRig::kAllFeatures & ~BlkRig::kEventIndex);
    EXPECT_EQ(fake.disk->in_flight(), 0U);
    fake.write(1, 4);
    EXPECT_EQ(fake.disk->in_flight(), 1U) << "the new driver is served";
    fake.finish(0);
    EXPECT_EQ(fake.rig->status(1), kOk);
}

}  // namespace
}  // namespace snapvm
