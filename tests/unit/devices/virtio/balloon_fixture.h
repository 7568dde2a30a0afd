// SPDX-License-Identifier: Apache-2.0
// What the tests of the balloon share: the device and a driver for it.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/mmio/mmio.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::virtio {

using test::DriverQueue;
using test::FakeHost;
using test::MmioDriver;
using test::ok;

enum : std::uint32_t { kInflate, kDeflate, kStatistics, kHints, kReports };
inline constexpr std::uint64_t kPoison = 1ULL << 4;
inline constexpr std::uint64_t kAll = 0x3F;
inline constexpr Gpa kData{0x20000};
inline constexpr std::uint64_t kPage = 0x80;  // a page of RAM that the guest may give up

class VirtioBalloon : public ::testing::Test {
protected:
    VirtioBalloon() { build(); }

    void build(const StateRecord* record = nullptr) {
        for (const DeviceFactory& factory : device_factories()) {
            if (factory.kind == RecordKind::virtio_balloon) {
                auto built = test::build_device(factory, host_, test::all_devices(), record);
                ASSERT_TRUE(ok(built));
                attached_ = *std::move(built);
            }
        }
        driver_.emplace(*attached_.device);
        mmio_ = dynamic_cast<Mmio*>(attached_.device.get());
        balloon_ = dynamic_cast<Balloon*>(&mmio_->device());
    }
    void start(std::uint64_t features = kAll & ~kPoison) {
        ASSERT_TRUE(driver_->negotiate(features));
        queues_.clear();
        ASSERT_TRUE(ok(host_.memory.write(Gpa{0x1000}, std::vector<std::byte>(0x10000))));  // a driver clears its rings
        Gpa base{0x1000};
        for (std::uint32_t i = 0; i < 5; ++i) {
            queues_.emplace_back(host_.memory, base, 8);
            driver_->set_queue(i, queues_.back());
            base = queues_.back().end();
        }
        driver_->start();
        run();
        (void)driver_->acknowledge();
    }
    void run() const {
        while (host_.loop->run_pending()) {
        }
    }
    void notify(std::uint32_t queue) {
        driver_->notify(queue);
        run();
    }
    void send(std::uint32_t queue, std::initializer_list<DriverQueue::Buffer> buffers) {
        queues_[queue].add(buffers);
        notify(queue);
    }
    void send_numbers(std::uint32_t queue, const std::vector<std::uint32_t>& numbers) {
        ASSERT_TRUE(ok(host_.memory.write(kData, std::as_bytes(std::span(numbers)))));
        send(queue, {{kData, static_cast<std::uint32_t>(4 * numbers.size()), false}});
    }
    void touch(std::uint64_t page) {
        ASSERT_TRUE(ok(host_.memory.store<std::uint64_t>(Gpa{page * kPageSize + 8}, page)));
    }
    [[nodiscard]] std::uint64_t value(std::uint64_t page) const {
        return *host_.memory.load<std::uint64_t>(Gpa{page * kPageSize + 8});
    }
    [[nodiscard]] PageType type(std::uint64_t page) const { return host_.memory.blocks()[0].types().get(page); }
    void send_statistics(std::uint16_t tag, std::uint64_t number) {
        Encoder out;
        out.u16(tag);
        out.u64(number);
        out.u16(4711);  // a tag of a newer driver
        out.u64(1);
        ASSERT_TRUE(ok(host_.memory.write(kData, out.bytes())));
        send(kStatistics, {{kData, 20, false}});
    }

    FakeHost host_;
    AttachedDevice attached_;
    std::optional<MmioDriver> driver_;
    std::vector<DriverQueue> queues_;
    Mmio* mmio_ = nullptr;
    Balloon* balloon_ = nullptr;
};

}  // namespace snapvm::virtio
