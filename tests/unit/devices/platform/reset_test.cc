// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/reset/reset.h"

#include "tests/conformance/fake_host.h"

namespace snapvm {
namespace {

using Requests = std::vector<std::pair<GuestRequest, std::uint8_t>>;

class ResetTest : public ::testing::Test {
protected:
    test::FakeHost host_;
    Reset reset_{host_.host()};
};

TEST_F(ResetTest, KeyboardControllerReboots) {
    for (int value = 0; value < 256; ++value) {
        host_.requests.clear();
        test::write_device(reset_.keyboard(), 0, static_cast<std::uint64_t>(value));
        EXPECT_EQ(host_.requests, value == 0xFE ? Requests({{GuestRequest::reboot, 0}}) : Requests{}) << value;
    }
    EXPECT_EQ(test::read_device(reset_.keyboard(), 0), 0U);
}

TEST_F(ResetTest, SleepControlPowersOff) {
    for (int value = 0; value < 256; ++value) {
        host_.requests.clear();
        test::write_device(reset_.sleep(), 0, static_cast<std::uint64_t>(value));
        EXPECT_EQ(host_.requests, value == 0x34 ? Requests({{GuestRequest::power_off, 0}}) : Requests{}) << value;
    }
}

// ACPI's status register, behind the control register, clears nothing and starts nothing.
TEST_F(ResetTest, SleepStatusReadsZeroAndTakesAnything) {
    for (int value = 0; value < 256; ++value) {
        test::write_device(reset_.sleep(), 1, static_cast<std::uint64_t>(value));
    }
    EXPECT_TRUE(host_.requests.empty());
    EXPECT_EQ(test::read_device(reset_.sleep(), 1), 0U);
}

// Linux writes 0x02, then 0x06; only the second asks for it.
TEST_F(ResetTest, ControlRegisterRebootsOnBitTwoAndKeepsTheRest) {
    test::write_device(reset_, 0, 0x02);
    EXPECT_TRUE(host_.requests.empty());
    EXPECT_EQ(test::read_device(reset_, 0), 0x02U);
    test::write_device(reset_, 0, 0x06);
    EXPECT_EQ(host_.requests, Requests({{GuestRequest::reboot, 0}}));
    EXPECT_EQ(test::read_device(reset_, 0), 0x02U);
}

TEST_F(ResetTest, StateNeverAsksForAReset) {
    EXPECT_FALSE(ResetStateV1::decode(ResetStateV1{0x06}.encode()));
    EXPECT_EQ(ResetStateV1::decode(ResetStateV1{0xFB}.encode()).value().reset_control, 0xFB);
}

}  // namespace
}  // namespace snapvm
