// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/console/console.h"

#include <gtest/gtest.h>

#include "devices/virtio/mmio/mmio.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"
#include "tests/support/virtio_driver.h"

namespace snapvm {
namespace {

using test::DriverQueue;
using test::FakeHost;
using test::MmioDriver;

constexpr Gpa kInputBuffers{0x40000};
constexpr Gpa kOutputBuffers{0x80000};

/// Driver and device; restored as a snapshot would.
class VirtioConsole : public ::testing::Test {
protected:
    VirtioConsole() {
        config_.console = true;
        build(nullptr);
        driver_->negotiate(1);
        driver_->set_queue(0, input_);
        driver_->set_queue(1, output_);
        driver_->start();
        run();
    }
    void build(const StateRecord* record) {
        for (const DeviceFactory& factory : device_factories()) {
            if (factory.kind == RecordKind::virtio_console) {
                attached_ = {};
                attached_ = *test::build_device(factory, fake_, config_, record);
                driver_.emplace(*attached_.ranges.front().device);
            }
        }
    }
    void restore() {
        const StateRecord record = attached_.device->save();
        build(&record);
        ASSERT_TRUE(test::ok(attached_.device->restored()));
    }
    void run() {
        while (fake_.loop->run_pending()) {
        }
    }
    virtio::Mmio& transport() { return dynamic_cast<virtio::Mmio&>(*attached_.device); }
    virtio::Console& console() { return dynamic_cast<virtio::Console&>(transport().device()); }
    std::size_t type(std::string_view text) {
        return transport().locked(
            [&] { return console().receive({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}); });
    }
    void give_buffer(std::uint32_t size) {
        input_.add({{kInputBuffers, size, true}});
        driver_->notify(0);
    }
    std::string take_input() {
        const auto used = input_.take();
        if (!used) {
            return "(nothing)";
        }
        std::string text(used->written, 0);
        EXPECT_TRUE(test::ok(fake_.memory.read(kInputBuffers, std::as_writable_bytes(std::span(text)))));
        return text;
    }
    void print(std::string_view text) {
        EXPECT_TRUE(test::ok(fake_.memory.write(kOutputBuffers, std::as_bytes(std::span(text)))));
        output_.add({{kOutputBuffers, static_cast<std::uint32_t>(text.size()), false}});
        driver_->notify(1);
    }

    DeviceConfig config_;
    FakeHost fake_;
    AttachedDevice attached_;
    std::optional<MmioDriver> driver_;
    DriverQueue input_{fake_.memory, Gpa{0x1000}, 8};
    DriverQueue output_{fake_.memory, Gpa{0x8000}, 8};
};

TEST_F(VirtioConsole, OutputComesOut) {
    print("hello\n");
    run();
    EXPECT_EQ(fake_.console, "hello\n");
    EXPECT_TRUE(output_.take().has_value());
}

TEST_F(VirtioConsole, OutputWaitsForAReaderAndLosesNothing) {
    fake_.console_room = 3;
    print("abcdef");
    run();
    EXPECT_EQ(fake_.console, "abc");
    EXPECT_FALSE(output_.take().has_value());
    // In a snapshot it is half done, and is not said twice.
    restore();
    run();
    EXPECT_EQ(fake_.console, "abc");
    fake_.console_room = 100;
    console().output_ready();
    run();
    EXPECT_EQ(fake_.console, "abcdef");
    EXPECT_TRUE(output_.take().has_value());
}

TEST_F(VirtioConsole, InputWaitsForBuffersAndIsBounded) {
    EXPECT_EQ(type("typed ahead"), 11U);
    EXPECT_EQ(type(std::string(5000, 'x')), 4096U - 11U);
    EXPECT_EQ(type("y"), 0U);
    run();
    restore();
    give_buffer(6);
    run();
    EXPECT_EQ(take_input(), "typed ");
    give_buffer(0);
    give_buffer(5);
    run();
    EXPECT_EQ(take_input(), "");
    EXPECT_EQ(take_input(), "ahead");
    EXPECT_EQ(type("yz"), 2U);
}

TEST_F(VirtioConsole, InputBeforeTheDriverWaitsOutside) {
    driver_->write(0x70, 0);
    EXPECT_EQ(type("x"), 0U);
}

TEST_F(VirtioConsole, ADriverIsToldOfTheSizeThatIsThereAlready) {
    EXPECT_EQ(driver_->acknowledge(), 2U);
    const StateRecord record = attached_.device->save();
    build(&record);
    transport().locked([&] { console().resize(132, 43); });
    EXPECT_EQ(driver_->acknowledge(), 0U) << "the machine does not run yet";
    ASSERT_TRUE(test::ok(attached_.device->restored()));
    EXPECT_EQ(driver_->acknowledge(), 2U);
    driver_->negotiate(0);
    driver_->start();
    EXPECT_EQ(driver_->acknowledge(), 0U) << "has not agreed on one";
}

TEST_F(VirtioConsole, AResizeTellsTheDriver) {
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 25U << 16 | 80U);
    (void)driver_->acknowledge();
    transport().locked([&] { console().resize(132, 43); });
    EXPECT_EQ(driver_->acknowledge(), 2U);
    EXPECT_EQ(driver_->config<std::uint16_t>(0), 132U);
    EXPECT_EQ(driver_->config<std::uint16_t>(2), 43U);
    transport().locked([&] { console().resize(132, 43); });
    EXPECT_EQ(driver_->acknowledge(), 0U);
    restore();
    EXPECT_EQ(driver_->config<std::uint16_t>(0), 132U);
}

}  // namespace
}  // namespace snapvm
