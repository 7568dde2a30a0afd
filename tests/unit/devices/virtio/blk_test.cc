// SPDX-License-Identifier: Apache-2.0
// A block device over a disk in memory, and over a file.
#include "devices/virtio/blk/blk.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <random>
#include <thread>

#include "tests/support/blk_rig.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/devices/virtio/blk_requests.h"
#include "vmm/base/fd.h"

namespace snapvm {
namespace {

using namespace test;  // the requests

struct WithFake {
    explicit WithFake(bool read_only = false, std::uint64_t features = BlkRig::kAllFeatures & ~BlkRig::kEventIndex,
                      std::uint16_t queue_size = 256) {
        auto made = std::make_unique<FakeDisk>(kDiskSize, read_only);
        disk = made.get();
        for (std::size_t i = 0; i < kDiskSize; ++i) {
            disk->bytes[i] = static_cast<std::byte>(i / 512 + 1);
        }
        rig = std::make_unique<BlkRig>(std::move(made), features, queue_size);
    }
    /// Starts the loop's thread, and returns when a read of sector 0 is at the disk.
    void read_until_at_the_disk() {
        ASSERT_TRUE(ok(rig->host.loop->start()));
        rig->add(0, kIn, 0, {{kData, 512, true}});
        rig->driver->notify(0);
        rig->host.loop->wait([this] { return disk->in_flight() == 1; });
    }
    FakeDisk* disk;
    std::unique_ptr<BlkRig> rig;
};

bool marked(GuestMemory& memory, Gpa at) {
    std::vector<std::uint64_t> words(memory.blocks()[0].spec().size / kPageSize / 64);
    memory.blocks()[0].marks().peek(words);
    return (words[at.value / kPageSize / 64] >> (at.value / kPageSize % 64) & 1) != 0;
}
void forget_marks(GuestMemory& memory) {
    std::vector<std::uint64_t> words(memory.blocks()[0].spec().size / kPageSize / 64);
    memory.blocks()[0].marks().collect(words);
}

TEST(VirtioBlk, TellsItsShape) {
    WithFake fake;
    auto& driver = *fake.rig->driver;
    EXPECT_EQ(driver.read(8), 2U);
    EXPECT_EQ(driver.device_features() & 0xFFFFFF, (1U << 2) | (1U << 6) | (1U << 9) | (1U << 13) | (1U << 14));
    EXPECT_EQ(driver.config<std::uint64_t>(0), kDiskSize / 512);
    EXPECT_EQ(driver.config<std::uint32_t>(12), 254U);
    EXPECT_EQ(driver.config<std::uint32_t>(20), 512U);
    EXPECT_EQ(driver.config<std::uint8_t>(56), 1U);
    EXPECT_EQ(driver.config<std::uint32_t>(54), 0x10000U) << "any access";
    EXPECT_EQ(driver.config<std::uint64_t>(60), 0U);
    WithFake read_only(true);
    EXPECT_EQ(read_only.rig->driver->device_features() & 0xFFFFFF, (1U << 2) | (1U << 5) | (1U << 6) | (1U << 9));
}

// Makes the disk larger as the machine does.
Status resize(BlkRig& rig, std::optional<std::uint64_t> bytes) {
    return rig.blk->locked([&] { return static_cast<virtio::Blk&>(rig.blk->device()).resize(bytes); });
}

TEST(VirtioBlk, BecomesLargerAndTellsTheDriver) {
    WithFake fake;
    fake.disk->at_once = true;
    BlkRig& rig = *fake.rig;
    constexpr std::uint32_t kGeneration = 0xFC;
    constexpr std::uint64_t kLarger = 2 * kDiskSize;
    const std::uint32_t generation = rig.driver->read(kGeneration);
    EXPECT_EQ(rig.request(kIn, kDiskSize / 512, {{kData, 512, true}}), kIoError) << "behind the end";
    (void)rig.driver->acknowledge();
    ASSERT_TRUE(ok(resize(rig, kLarger)));
    EXPECT_EQ(rig.driver->acknowledge(), 2U) << "a change of the configuration";
    EXPECT_NE(rig.driver->read(kGeneration), generation);
    EXPECT_EQ(rig.driver->config<std::uint64_t>(0), kLarger / 512);
    EXPECT_EQ(static_cast<virtio::Blk&>(rig.blk->device()).bytes(), kLarger);
    EXPECT_EQ(rig.request(kIn, kDiskSize / 512, {{kData, 512, true}}), kOk);
    // A snapshot taken now is of the larger disk.
    EXPECT_EQ(virtio::disk_bytes_in(rig.blk->save()).value(), kLarger);
    (void)rig.driver->acknowledge();
    ASSERT_TRUE(ok(resize(rig, kLarger)));
    EXPECT_EQ(rig.driver->acknowledge(), 0U) << "nothing has changed";
}

TEST(VirtioBlk, ASizeThatTheDiskCannotHaveChangesNothing) {
    WithFake fake(true);
    BlkRig& rig = *fake.rig;
    EXPECT_TRUE(fails(resize(rig, 2 * kDiskSize), ErrorKind::usage, "read-only"));
    EXPECT_EQ(rig.driver->acknowledge(), 0U);
    EXPECT_EQ(rig.driver->config<std::uint64_t>(0), kDiskSize / 512);
}

TEST(VirtioBlk, ReadsAndWrites) {
    WithFake fake;
    fake.disk->at_once = true;
    BlkRig& rig = *fake.rig;
    EXPECT_EQ(rig.request(kIn, 3, {{kData, 512, true}, {kData + 0x1001, 1024, true}}), kOk);
    EXPECT_EQ(rig.used->written, 1537U);
    EXPECT_EQ(rig.queue.load<std::uint8_t>(kData), 4U);
    EXPECT_EQ(rig.queue.load<std::uint8_t>(kData + 0x1001), 5U);
    EXPECT_EQ(rig.queue.load<std::uint8_t>(kData + 0x1001 + 1023), 6U);
    rig.queue.store(kData, 0x11223344U);
    EXPECT_EQ(rig.request(kOut, 2047, {{kData, 512, false}}), kOk) << "the last sector";
    EXPECT_EQ(rig.used->written, 1U);
    EXPECT_EQ(fake.disk->bytes[kDiskSize - 512], std::byte{0x44});
    EXPECT_EQ(rig.request(kFlush, 0), kOk);
    EXPECT_EQ(rig.request(kIn, 0), kOk) << "nothing at all";
    EXPECT_EQ(rig.request(kGetId, 0, {{kData, 20, true}}), kOk);
    EXPECT_EQ(rig.queue.load<std::uint32_t>(kData), 0x746F6F72U);
    EXPECT_EQ(rig.queue.load<std::uint32_t>(kData + 16), 0U);
    EXPECT_EQ(rig.request(kGetId, 0, {{kData, 4, true}}), kOk);
    EXPECT_FALSE(rig.driver->needs_reset());
}

TEST(VirtioBlk, RangesAreDiscardedAndZeroed) {
    WithFake fake;
    fake.disk->at_once = true;
    BlkRig& rig = *fake.rig;
    const auto range = [&](unsigned index, std::uint64_t sector, std::uint32_t count, std::uint32_t flags) {
        rig.queue.store(kData + 16ULL * index, sector);
        rig.queue.store(kData + 16ULL * index + 8, count);
        rig.queue.store(kData + 16ULL * index + 12, flags);
    };
    range(0, 10, 2, 0);
    range(1, 20, 1, 0);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 32, false}}), kOk);
    for (const auto& [sector, zero] :
         {std::pair{9U, false}, {10U, true}, {11U, true}, {12U, false}, {20U, true}, {21U, false}}) {
        EXPECT_EQ(fake.disk->bytes[512 * sector] == std::byte{0}, zero) << sector;
    }
    range(0, 30, 1, 1);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 16, false}}), kUnsupported);
    EXPECT_EQ(rig.request(kWriteZeroes, 0, {{kData, 16, false}}), kOk);
    EXPECT_EQ(fake.disk->bytes[512 * 30], std::byte{0});
    range(0, 30, 1, 2);
    EXPECT_EQ(rig.request(kWriteZeroes, 0, {{kData, 16, false}}), kUnsupported);
    range(0, 2048, 1, 0);
    EXPECT_EQ(rig.request(kWriteZeroes, 0, {{kData, 16, false}}), kIoError);
    range(0, ~0ULL, 2, 0);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 16, false}}), kIoError);
    range(0, 0, ~0U, 0);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 16, false}}), kIoError);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 15, false}}), kIoError);
    EXPECT_EQ(rig.request(kDiscard, 0), kIoError);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 17 * 16, false}}), kIoError) << "more ranges than it says it takes";
    WithFake plain(false, 1 << 9);
    plain.disk->at_once = true;
    EXPECT_EQ(plain.rig->request(kDiscard, 0, {{kData, 16, false}}), kUnsupported) << "not agreed on";
}

TEST(VirtioBlk, WhatIsOutOfRangeOrMalformedIsAnError) {
    WithFake fake;
    fake.disk->at_once = true;
    BlkRig& rig = *fake.rig;
    EXPECT_EQ(rig.request(kIn, 2048, {{kData, 512, true}}), kIoError);
    EXPECT_EQ(rig.request(kIn, 2047, {{kData, 1024, true}}), kIoError);
    EXPECT_EQ(rig.request(kOut, 2047, {{kData, 1024, false}}), kIoError);
    EXPECT_EQ(rig.request(kIn, ~0ULL, {{kData, 512, true}}), kIoError);
    EXPECT_EQ(rig.request(kOut, ~0ULL >> 9, {{kData, 512, false}}), kIoError);
    EXPECT_EQ(rig.request(kIn, 0, {{kData, 511, true}}), kIoError);
    EXPECT_EQ(rig.request(kOut, 0, {{kData, 513, false}}), kIoError);
    for (const std::uint32_t type : {2U, 3U, 10U, 14U, 16U, 0xFFFFFFFFU}) {
        EXPECT_EQ(rig.request(type, 0), kUnsupported) << type;
    }
    EXPECT_TRUE(fake.disk->waiting.empty());
    // A header that is too short has a status all the same.
    rig.queue.store(BlkRig::kStatus, std::uint8_t{0xEE});
    rig.queue.add({{BlkRig::kHeaders, 15, false}, {BlkRig::kStatus, 1, true}});
    rig.notify();
    EXPECT_EQ(rig.status(0), kIoError);
    EXPECT_FALSE(rig.driver->needs_reset());
    // There is no room for a status, so only the needed reset tells the driver.
    rig.queue.add({{BlkRig::kHeaders, 16, false}});
    rig.notify();
    EXPECT_TRUE(rig.driver->needs_reset());
    rig.connect(BlkRig::kAllFeatures);
    rig.taken = 0;
    EXPECT_EQ(rig.request(kIn, 3, {{kData, 512, true}}), kOk) << "and a reset mends it";
}

TEST(VirtioBlk, AReadOnlyDiskIsNotWritten) {
    WithFake fake(true);
    fake.disk->at_once = true;
    const auto before = fake.disk->bytes;
    BlkRig& rig = *fake.rig;
    EXPECT_EQ(rig.request(kOut, 0, {{kData, 512, false}}), kIoError);
    EXPECT_EQ(rig.request(kDiscard, 0, {{kData, 16, false}}), kUnsupported);
    EXPECT_EQ(rig.request(kFlush, 0), kOk);
    EXPECT_EQ(rig.request(kIn, 0, {{kData, 512, true}}), kOk);
    EXPECT_TRUE(fake.disk->bytes == before);
}

TEST(VirtioBlk, ABatchIsOneSubmissionAndOneInterrupt) {
    WithFake fake;
    BlkRig& rig = *fake.rig;
    const int submits = fake.disk->submits;
    for (unsigned i = 0; i < 32; ++i) {
        rig.add(i, kIn, i, {{kData + 512ULL * i, 512, true}});
    }
    rig.notify();
    ASSERT_EQ(fake.disk->waiting.size(), 32U);
    EXPECT_EQ(fake.disk->submits, submits + 1);
    const int edges = rig.host.edges;
    std::swap(fake.disk->waiting[0], fake.disk->waiting[31]);  // requests may end in any order
    fake.disk->finish_all();
    rig.run();
    EXPECT_EQ(rig.host.edges, edges + 1);
    EXPECT_EQ(rig.queue.used_index(), 32U);
    for (unsigned i = 0; i < 32; ++i) {
        EXPECT_EQ(rig.status(i), kOk);
        EXPECT_EQ(rig.queue.load<std::uint8_t>(kData + 512ULL * i), i + 1);
    }
}

TEST(VirtioBlk, DiskErrorsAreTheGuestsErrors) {
    WithFake fake;
    BlkRig& rig = *fake.rig;
    rig.add(0, kIn, 0, {{kData, 512, true}});
    rig.add(1, kFlush, 0);
    rig.add(2, kDiscard, 0, {{kData, 16, false}});
    rig.queue.store(kData, std::uint64_t{0});
    rig.queue.store(kData + 8, std::uint64_t{1});
    rig.add(3, kIn, 0, {{kData, 512, true}});
    rig.notify();
    ASSERT_EQ(fake.disk->waiting.size(), 4U);
    fake.disk->finish_one(EIO);
    fake.disk->finish_one(ENOSPC);
    fake.disk->finish_one(EIO);
    fake.disk->finish_one();
    rig.run();
    EXPECT_EQ(rig.status(0), kIoError);
    EXPECT_EQ(rig.status(1), kIoError);
    EXPECT_EQ(rig.status(2), kIoError);
    EXPECT_EQ(rig.status(3), kOk);
    EXPECT_FALSE(rig.driver->needs_reset());
}

// Trap: a write of the VMM is marked dirty at submission, and the data arrives after the copy.
TEST(VirtioBlkTrap, MemoryIsMarkedWhenTheDataIsThere) {
    WithFake fake;
    BlkRig& rig = *fake.rig;
    rig.add(0, kIn, 0, {{kData, 512, true}, {kData + 0x2000, 8192, true}});
    rig.add(1, kIn, 0, {{kData + 0x8000, 512, true}});
    forget_marks(rig.host.memory);
    rig.notify();
    EXPECT_FALSE(marked(rig.host.memory, kData));
    fake.disk->finish_one();
    EXPECT_FALSE(marked(rig.host.memory, kData));
    rig.run();
    for (const std::uint64_t offset : {0x0ULL, 0x2000ULL, 0x3000ULL}) {
        EXPECT_TRUE(marked(rig.host.memory, kData + offset)) << offset;
    }
    EXPECT_TRUE(marked(rig.host.memory, BlkRig::kStatus));
    EXPECT_FALSE(marked(rig.host.memory, kData + 0x1000));
    EXPECT_FALSE(marked(rig.host.memory, kData + 0x8000)) << "still at the disk";
    fake.disk->finish_one(EIO);
    rig.run();
    EXPECT_TRUE(marked(rig.host.memory, kData + 0x8000)) << "part of it may have come";
}

TEST(VirtioBlk, AHoldWaitsForWhatIsInFlightAndTakesNothingNew) {
    WithFake fake;
    BlkRig& rig = *fake.rig;
    ASSERT_NO_FATAL_FAILURE(fake.read_until_at_the_disk());
    std::atomic<bool> held = false;
    std::thread holder([&] {
        rig.host.loop->quiesce();
        held = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(held);
    rig.add(1, kIn, 1, {{kData + 512, 512, true}});
    rig.driver->notify(0);
    fake.disk->finish_one();
    holder.join();
    EXPECT_EQ(rig.queue.used_index(), 1U);
    EXPECT_EQ(rig.status(0), kOk);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(fake.disk->in_flight(), 0U);
    EXPECT_EQ(rig.status(1), kUntouched);
    rig.host.loop->thaw();
    rig.host.loop->wait([&] { return fake.disk->in_flight() == 1; });
    fake.disk->finish_one();
    rig.host.loop->quiesce();
    rig.host.loop->thaw();
    EXPECT_EQ(rig.status(1), kOk);
    rig.host.loop->stop();
}

// A pause makes tables durable (Machine::quiesce), once for all that was written.
TEST(VirtioBlk, SettlingFlushesWhatWasWrittenToADiskWithTables) {
    for (const bool tables : {false, true}) {
        SCOPED_TRACE(tables);
        WithFake fake;
        fake.disk->tables = tables;
        BlkRig& rig = *fake.rig;
        auto& blk = static_cast<virtio::Blk&>(rig.blk->device());
        const auto settle = [&] { rig.blk->locked([&] { blk.settle(); }); };
        settle();
        EXPECT_EQ(fake.disk->in_flight(), 0U) << "nothing was written";
        fake.disk->at_once = true;
        EXPECT_EQ(rig.request(kOut, 0, {{kData, 512, false}}), kOk);
        fake.disk->at_once = false;
        rig.host.loop->quiesce();
        settle();
        ASSERT_EQ(fake.disk->in_flight(), tables ? 1U : 0U);
        if (tables) {
            EXPECT_EQ(fake.disk->waiting.front()->kind, DiskRequest::Kind::flush);
            EXPECT_FALSE(rig.host.loop->quiesce(std::chrono::steady_clock::now())) << "it is work";
            fake.disk->finish_one(EIO);
            EXPECT_TRUE(rig.host.loop->quiesce());
            EXPECT_TRUE(test::fails(blk.settled(), ErrorKind::system, "its tables cannot be written"));
            settle();
            ASSERT_EQ(fake.disk->in_flight(), 1U) << "it has failed, so it is tried again";
            fake.disk->finish_one();
            EXPECT_TRUE(rig.host.loop->quiesce());
            EXPECT_TRUE(test::ok(blk.settled()));
        }
        settle();
        EXPECT_EQ(fake.disk->in_flight(), 0U);
        rig.host.loop->thaw();
        EXPECT_EQ(rig.queue.used_index(), 1U) << "it is no request of the driver's";
        fake.disk->at_once = true;
        EXPECT_EQ(rig.request(kFlush, 0), kOk) << "the device works on";
    }
}

TEST(VirtioBlk, ASavedRequestIsDoneByTheRestoredMachine) {
    WithFake fake;
    BlkRig& rig = *fake.rig;
    rig.host.loop->quiesce();
    rig.add(0, kIn, 7, {{kData, 512, true}});
    rig.driver->notify(0);
    const StateRecord record = rig.blk->save();
    const auto restore = [&](std::uint64_t size) -> Result<std::unique_ptr<virtio::Mmio>> {
        auto disk = std::make_unique<FakeDisk>(size);
        disk->at_once = true;
        std::ranges::fill(disk->bytes, std::byte{0x77});
        auto blk = virtio::Mmio::build(rig.host.host(), BlkRig::place(),
                                       std::make_unique<virtio::Blk>("root", std::move(disk)));
        if (blk) {
            if (Status adopted = test::adopt_record(**blk, record); !adopted) {
                return fail(adopted.error());
            }
        }
        return blk;
    };
    EXPECT_TRUE(fails(restore(kDiskSize - 512), ErrorKind::invalid,
                      "disk fake has 2047 sectors, and the saved machine's disk had 2048"));
    EXPECT_TRUE(fails(restore(kDiskSize + 512), ErrorKind::invalid));
    rig.blk.reset();
    rig.host.loop->thaw();
    const auto again = restore(kDiskSize);
    ASSERT_TRUE(ok(again));
    rig.run();
    EXPECT_EQ(rig.status(0), kUntouched) << "before the machine runs";
    ASSERT_TRUE(ok((*again)->restored()));
    rig.run();
    EXPECT_EQ(rig.status(0), kOk);
    EXPECT_EQ(rig.queue.load<std::uint8_t>(kData), 0x77U);
}

TEST(VirtioBlk, AResetWaitsForWhatIsInFlight) {
    WithFake fake;
    BlkRig& rig = *fake.rig;
    ASSERT_NO_FATAL_FAILURE(fake.read_until_at_the_disk());
    std::atomic<bool> over = false;
    std::thread vcpu([&] {
        rig.driver->write(0x70, 0);
        over = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(over);
    fake.disk->finish_one();
    vcpu.join();
    EXPECT_EQ(rig.driver->read(0x70), 0U);
    rig.host.loop->stop();
}

// A driver that makes more available than its queue is long: all are served, as slots become free.
TEST(VirtioBlk, MoreThanThereIsRoomForWaits) {
    WithFake fake(false, BlkRig::kAllFeatures, 256);
    BlkRig& rig = *fake.rig;
    rig.put_header(0, kIn, 0);
    rig.queue.write_descriptor(0, BlkRig::kHeaders, 16, DriverQueue::kNext, 1);
    rig.queue.write_descriptor(1, kData, 513, DriverQueue::kWrite, 0);
    for (int i = 0; i < 250; ++i) {
        rig.queue.offer(0);
    }
    rig.notify();
    EXPECT_EQ(fake.disk->waiting.size(), 250U);
    for (int i = 0; i < 100; ++i) {
        rig.queue.offer(0);
    }
    rig.notify();
    EXPECT_EQ(fake.disk->waiting.size(), 256U);
    rig.host.loop->run_pending();
    for (int i = 0; i < 350; ++i) {
        fake.disk->finish_one();
        rig.run();
    }
    EXPECT_EQ(rig.queue.used_index(), 350U);
    EXPECT_FALSE(rig.driver->needs_reset());
}

// The real disk behind it, by both engines, with requests that overlap in time and an interrupt for
// each batch at most.
TEST(VirtioBlk, OnAFile) {
    for (const io::EngineKind engine : {io::EngineKind::uring, io::EngineKind::threads}) {
        const UniqueFd file(::memfd_create("disk", MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(file.get(), kDiskSize), 0);
        DiskOptions options;
        options.engine = engine;
        BlkRig rig(*open_disk("root", "/proc/self/fd/" + std::to_string(file.get()), options), BlkRig::kAllFeatures);
        std::mt19937 random(5);
        for (unsigned round = 0; round < 200; ++round) {
            const unsigned batch = 1 + random() % 32;
            for (unsigned i = 0; i < batch; ++i) {
                rig.queue.store(kData + 1024ULL * i, (round << 8 | i) + 1);
                rig.add(i, kOut, (round % 8 * 32 + i) * 2, {{kData + 1024ULL * i, 1024, false}});
            }
            rig.driver->notify(0);
            rig.taken = static_cast<std::uint16_t>(rig.taken + batch);
            rig.host.loop->wait([&] { return rig.queue.used_index() == rig.taken; });
            for (unsigned i = 0; i < batch; ++i) {
                ASSERT_EQ(rig.status(i), kOk);
                std::uint32_t value = 0;
                ASSERT_TRUE(ok(read_exactly_at(file.get(), std::as_writable_bytes(std::span(&value, 1)),
                                               (round % 8 * 32 + i) * 1024, "disk")));
                ASSERT_EQ(value, (round << 8 | i) + 1);
            }
        }
        while (rig.queue.take()) {
        }
        EXPECT_EQ(rig.request(kIn, 0, {{kData + 1, 512, true}}), kOk);
        ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
        EXPECT_EQ(rig.request(kIn, 512, {{kData, 512, true}}), kIoError) << "it has shrunk";
        EXPECT_EQ(rig.request(kOut, 512, {{kData, 512, false}}), kIoError);
        EXPECT_EQ(::lseek(file.get(), 0, SEEK_END), 4096) << "and stays so";
        EXPECT_EQ(rig.request(kIn, 0, {{kData, 512, true}}), kOk);
        EXPECT_FALSE(rig.driver->needs_reset());
    }
}

TEST(VirtioBlk, NoiseDoesNoHarm) {
    std::mt19937 random(9);
    for (int round = 0; round < 300; ++round) {
        WithFake fake(round % 3 == 0, random(), 16);
        fake.disk->at_once = round % 2 == 0;
        BlkRig& rig = *fake.rig;
        for (int step = 0; step < 40; ++step) {
            for (unsigned i = 0; i < 16; ++i) {
                rig.put_header(i, random() % 2 == 0 ? random() % 15 : random(),
                               random() % 2 == 0 ? random() % 2050 : random());
                const bool header = random() % 2 == 0;
                rig.queue.write_descriptor(
                    static_cast<std::uint16_t>(i), header ? BlkRig::kHeaders + 16ULL * i : kData + random() % 0x10000,
                    header ? 16 : random() % 5 * 512 + random() % 2, static_cast<std::uint16_t>(random() % 4),
                    static_cast<std::uint16_t>(random() % 16));
            }
            rig.queue.offer(static_cast<std::uint16_t>(random() % 16));
            rig.notify();
            if (random() % 4 == 0) {
                fake.disk->finish_all();
                rig.run();
            }
        }
        fake.disk->finish_all();
        rig.run();
        rig.connect(random());
    }
}

}  // namespace
}  // namespace snapvm
