// SPDX-License-Identifier: Apache-2.0
// The ABI of PLATFORM.md, on which test guests rely.
#include "devices/platform/test_port/test_port.h"

#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using Requests = std::vector<std::pair<GuestRequest, std::uint8_t>>;

class TestPortTest : public ::testing::Test {
protected:
    test::FakeHost host_;
    TestPort port_{host_.host()};
};

TEST_F(TestPortTest, ReadsAsSnpv) {
    EXPECT_EQ(test::read_device(port_, 0, 4), 0x56504E53U);
    EXPECT_EQ(test::read_device(port_, 4, 4), 0U);
    EXPECT_EQ(test::read_device(port_, 8, 4), 0U);
}

TEST_F(TestPortTest, ReadyKeepsItsValue) {
    EXPECT_FALSE(port_.state().ready);
    test::write_device(port_, 0, 0xDEADBEEF, 4);
    EXPECT_TRUE(port_.state().ready);
    EXPECT_EQ(port_.state().ready_value, 0xDEADBEEF);
    EXPECT_EQ(host_.ready_values, std::vector<std::uint32_t>{0xDEADBEEF});
}

TEST_F(TestPortTest, ExitEndsTheRunWithTheLowByte) {
    test::write_device(port_, 4, 0x1234, 4);
    test::write_device(port_, 4, 0, 4);
    EXPECT_EQ(host_.requests, Requests({{GuestRequest::exit_code, 0x34}, {GuestRequest::exit_code, 0}}));
}

TEST_F(TestPortTest, MarksAreCountedAndTheNewestIsKept) {
    for (const std::uint32_t mark : {5U, 9U, 7U}) {
        test::write_device(port_, 8, mark, 4);
    }
    EXPECT_EQ(port_.state().mark, 7U);
    EXPECT_EQ(port_.state().marks, 3U);
    EXPECT_EQ(host_.marks, (std::vector<std::uint32_t>{5, 9, 7}));
}

TEST_F(TestPortTest, OtherOffsetsDoNothing) {
    for (const std::uint64_t offset : {1, 2, 3, 5, 6, 7, 9, 10, 11}) {
        test::write_device(port_, offset, 0xFF, 1);
    }
    EXPECT_TRUE(host_.log.empty());
}

// QEMU's isa-debug-exit: (value << 1) | 1.
TEST_F(TestPortTest, ExitPortCountsAsQemus) {
    for (const std::uint32_t value : {0U, 1U, 0x10U, 0x7FU, 0x80U, 0xFFU}) {
        host_.requests.clear();
        test::write_device(port_.exit_port(), 0, value, 4);
        EXPECT_EQ(host_.requests,
                  Requests({{GuestRequest::exit_code, static_cast<std::uint8_t>((value << 1 | 1) & 0xFF)}}));
    }
    EXPECT_EQ(test::read_device(port_.exit_port(), 0), 0U);
}

TEST_F(TestPortTest, AMachineRestoredAfterReadyIsReady) {
    EXPECT_TRUE(test::ok(test::restore_device<TestPort>(port_.save(), host_.host()).value()->restored()));
    EXPECT_TRUE(host_.ready_values.empty());
    test::write_device(port_, 0, 42, 4);
    test::write_device(port_, 8, 3, 4);
    host_.ready_values.clear();
    host_.marks.clear();
    const auto copy = test::restore_device<TestPort>(port_.save(), host_.host());
    ASSERT_TRUE(test::ok(copy));
    ASSERT_TRUE(test::ok((*copy)->restored()));
    EXPECT_EQ(host_.ready_values, std::vector<std::uint32_t>{42});
    EXPECT_TRUE(host_.marks.empty());
    EXPECT_EQ((*copy)->state().marks, 1U);
}

}  // namespace
}  // namespace snapvm
