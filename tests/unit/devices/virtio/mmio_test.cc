// SPDX-License-Identifier: Apache-2.0
// The MMIO transport, driven as a driver does, with the random number device behind it.
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <optional>

#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/rng/rng.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kEventIndex = 1ULL << 29;
constexpr Gpa kData{0x20000};

class VirtioMmio : public ::testing::Test {
protected:
    VirtioMmio() { build(nullptr); }
    void build(const StateRecord* record) {
        for (const DeviceFactory& factory : device_factories()) {
            if (factory.kind == RecordKind::virtio_rng) {
                auto built = test::build_device(factory, host_, all_devices(), record);
                ASSERT_TRUE(ok(built));
                attached_ = *std::move(built);
            }
        }
        driver_.emplace(*attached_.ranges[0].device);
    }
    void start(std::uint64_t features = 0) {
        ASSERT_TRUE(driver_->negotiate(features));
        driver_->set_queue(0, queue_);
        driver_->start();
        work();
    }
    void work() const {
        while (host_.loop->run_pending()) {
        }
    }

    FakeHost host_;
    AttachedDevice attached_;
    std::optional<MmioDriver> driver_;
    DriverQueue queue_{host_.memory, Gpa{0x1000}, 16};
};

TEST_F(VirtioMmio, SaysWhatItIs) {
    EXPECT_EQ(driver_->read(0x00), 0x74726976U);
    EXPECT_EQ(driver_->read(0x04), 2U);
    EXPECT_EQ(driver_->read(0x08), 4U) << "entropy";
    EXPECT_EQ(driver_->read(0x34), 64U) << "entries at most";
    driver_->write(0x30, 1);
    EXPECT_EQ(driver_->read(0x34), 0U) << "there is no second queue";
    EXPECT_EQ(driver_->read(0xB0), 0xFFFFFFFFU) << "no shared memory";
    EXPECT_EQ(driver_->device_features(), 1ULL << 32 | 1ULL << 29 | 1ULL << 28);
}

TEST_F(VirtioMmio, AnswersRequests) {
    for (const std::uint64_t features : {std::uint64_t{0}, kEventIndex}) {
        SCOPED_TRACE(features);
        queue_ = DriverQueue(host_.memory, Gpa{0x1000}, 16);
        const std::vector<std::byte> zeros(0x4000);
        ASSERT_TRUE(ok(host_.memory.write(Gpa{0x1000}, zeros)));
        start(features);
        host_.edges = 0;
        for (int i = 0; i < 40; ++i) {
            ASSERT_TRUE(ok(host_.memory.write(kData, std::span(zeros).first(64))));
            queue_.set_used_event(static_cast<std::uint16_t>(i));
            const std::uint16_t head = queue_.add({{kData, 64, true}});
            driver_->notify(0);
            EXPECT_FALSE(queue_.take().has_value()) << "the devices' thread has not had its turn";
            work();
            const auto used = queue_.take();
            ASSERT_TRUE(used.has_value());
            EXPECT_EQ(used->head, head);
            EXPECT_EQ(used->written, 64U);
            std::array<std::byte, 64> got;
            ASSERT_TRUE(ok(host_.memory.read(kData, got)));
            EXPECT_FALSE(std::ranges::all_of(got, [](std::byte byte) { return byte == std::byte{0}; }));
            EXPECT_EQ(driver_->acknowledge(), 1U);
        }
        EXPECT_EQ(host_.edges, 40);
    }
}

TEST_F(VirtioMmio, KnowsThatItHadADriver) {
    const auto had_driver = [this] { return dynamic_cast<const virtio::Mmio&>(*attached_.device).had_driver(); };
    EXPECT_EQ(driver_->read(0x0), 0x74726976U);
    driver_->write(0x70, 1);
    driver_->write(0x70, 3);
    driver_->write(0x70, 0x83);
    EXPECT_FALSE(had_driver()) << "one that got no interrupt, say, has failed";
    driver_->write(0x70, 0);
    start();
    EXPECT_TRUE(had_driver());
    driver_->write(0x70, 0);
    EXPECT_TRUE(had_driver()) << "a driver resets it when the guest shuts down";
}

TEST_F(VirtioMmio, KeepsTheOrderOfInitialization) {
    driver_->write(0x70, 1);
    driver_->write(0x70, 3);
    driver_->write(0x70, 11);
    EXPECT_EQ(driver_->read(0x70), 3U) << "features without VERSION_1 are refused";
    driver_->write(0x70, 7);
    EXPECT_EQ(driver_->read(0x70), 3U) << "and so there is no DRIVER_OK";
    ASSERT_TRUE(driver_->negotiate(0));
    driver_->write(0x24, 0);
    driver_->write(0x20, 1U << 29);
    driver_->set_queue(0, queue_);
    driver_->start();
    EXPECT_EQ(driver_->read(0x70), 15U);
    driver_->write(0x38, 4);
    EXPECT_EQ(driver_->read(0x44), 1U) << "a ready queue is fixed";
    driver_->write(0x44, 0);
    EXPECT_EQ(driver_->read(0x44), 0U) << "but the driver may be done with it";
    const std::vector<std::byte> zeros(0x4000);
    ASSERT_TRUE(ok(host_.memory.write(Gpa{0x1000}, zeros)));
    queue_ = DriverQueue(host_.memory, Gpa{0x1000}, 16);
    driver_->set_queue(0, queue_);
    EXPECT_EQ(driver_->read(0x44), 1U);
    queue_.add({{kData, 8, true}});
    driver_->notify(0);
    work();
    EXPECT_TRUE(queue_.take().has_value());
    driver_->write(0x70, 0);
    EXPECT_EQ(driver_->read(0x70), 0U);
    EXPECT_EQ(driver_->read(0x44), 0U);
}

// A driver that sets a queue up again after using it still uses event indexes. With flags, neither
// side would notify the other.
TEST_F(VirtioMmio, AQueueThatComesBackKeepsWhatWasAgreed) {
    start(kEventIndex);
    driver_->write(0x30, 0);
    driver_->write(0x44, 0);
    ASSERT_EQ(driver_->read(0x44), 0U);
    ASSERT_TRUE(ok(host_.memory.write(Gpa{0x1000}, std::vector<std::byte>(0x4000))));
    queue_ = DriverQueue(host_.memory, Gpa{0x1000}, 16);
    driver_->set_queue(0, queue_);
    queue_.set_used_event(2);
    for (std::uint16_t i = 1; i <= 3; ++i) {
        (void)driver_->acknowledge();
        queue_.add({{kData, 8, true}});
        driver_->notify(0);
        work();
        EXPECT_EQ(queue_.available_event(), i) << "asks to be notified of the next";
        EXPECT_EQ(driver_->acknowledge(), i == 3 ? 1U : 0U) << "tells of the third";
    }
}

TEST_F(VirtioMmio, ABrokenDriverNeedsAReset) {
    start();
    queue_.offer(99);
    driver_->notify(0);
    work();
    EXPECT_TRUE(driver_->needs_reset());
    EXPECT_EQ(driver_->acknowledge(), 2U) << "it is told";
    queue_.add({{kData, 8, true}});
    driver_->notify(0);
    work();
    EXPECT_FALSE(queue_.take().has_value()) << "nothing of it is believed";
    const std::vector<std::byte> zeros(0x4000);
    ASSERT_TRUE(ok(host_.memory.write(Gpa{0x1000}, zeros)));
    queue_ = DriverQueue(host_.memory, Gpa{0x1000}, 16);
    start();
    EXPECT_FALSE(driver_->needs_reset());
    queue_.add({{kData, 8, true}});
    driver_->notify(0);
    work();
    EXPECT_TRUE(queue_.take().has_value());
}

TEST_F(VirtioMmio, AQueueThatIsNoneNeedsAReset) {
    ASSERT_TRUE(driver_->negotiate(0));
    driver_->set_queue(0, DriverQueue(host_.memory, Gpa{0x1000}, 128));  // more than it takes
    EXPECT_TRUE(driver_->needs_reset());
    EXPECT_EQ(driver_->read(0x44), 0U);
}

// What was notified and not served before the save is served after the restore, and the
// unacknowledged interrupt is still there.
TEST_F(VirtioMmio, GoesOnAfterARestore) {
    start();
    queue_.add({{kData, 8, true}});
    driver_->notify(0);
    work();
    ASSERT_TRUE(queue_.take().has_value());
    queue_.add({{kData, 8, true}});
    driver_->notify(0);
    const StateRecord record = attached_.device->save();
    attached_ = {};
    build(&record);
    work();
    EXPECT_FALSE(queue_.take().has_value()) << "not before it runs";
    ASSERT_TRUE(ok(attached_.device->restored()));
    work();
    EXPECT_TRUE(queue_.take().has_value());
    EXPECT_EQ(driver_->acknowledge(), 1U);
}

TEST_F(VirtioMmio, TheDoorbellIsTheNotification) {
    start();
    ASSERT_EQ(attached_.ioeventfds.size(), 1U);
    EXPECT_EQ(attached_.ioeventfds[0].address, attached_.ranges[0].base + 0x50);
    queue_.add({{kData, 8, true}});
    ASSERT_EQ(::eventfd_write(attached_.ioeventfds[0].eventfd, 1), 0);  // as KVM does
    work();
    EXPECT_TRUE(queue_.take().has_value());
}

}  // namespace
}  // namespace snapvm::test
