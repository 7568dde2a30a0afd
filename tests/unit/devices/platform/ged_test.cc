// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/ged/ged.h"

#include "tests/conformance/fake_host.h"

namespace snapvm {
namespace {

constexpr std::uint32_t kGsi = platform::kEventGsi;
constexpr std::uint64_t kStatus = 0;
constexpr std::uint64_t kEnable = 1;

class GedTest : public ::testing::Test {
protected:
    test::FakeHost host_;
    Ged device_{host_.host(), kGsi};
};

TEST_F(GedTest, ButtonRaisesTheInterruptUntilItIsAcknowledged) {
    test::write_device(device_, kEnable, 1);
    EXPECT_FALSE(host_.high(kGsi));
    EXPECT_TRUE(device_.press_power_button());
    EXPECT_TRUE(host_.high(kGsi));
    EXPECT_EQ(test::read_device(device_, kStatus), 1U);
    test::write_device(device_, kStatus, 1);
    EXPECT_FALSE(host_.high(kGsi));
    EXPECT_EQ(test::read_device(device_, kStatus), 0U);
    EXPECT_TRUE(device_.press_power_button());
    EXPECT_EQ(host_.edges, 2);
}

TEST_F(GedTest, WhoeverListensLaterFindsItPressed) {
    EXPECT_FALSE(device_.press_power_button()) << "nobody listens";
    EXPECT_TRUE(host_.log.empty());
    test::write_device(device_, kEnable, 1);
    EXPECT_TRUE(host_.high(kGsi));
}

TEST_F(GedTest, PressingAgainChangesNothing) {
    test::write_device(device_, kEnable, 1);
    device_.press_power_button();
    const auto log = host_.log;
    EXPECT_TRUE(device_.press_power_button());
    EXPECT_EQ(host_.log, log);
}

TEST_F(GedTest, NoGuestCanRaiseWhatDidNotHappen) {
    for (int value = 0; value < 256; ++value) {
        test::write_device(device_, kStatus, static_cast<std::uint64_t>(value));
        test::write_device(device_, kEnable, static_cast<std::uint64_t>(value));
        EXPECT_EQ(test::read_device(device_, kEnable), static_cast<std::uint64_t>(value) & 1);
    }
    EXPECT_TRUE(host_.log.empty());
}

TEST_F(GedTest, AButtonPressedWhenTheMachineWasSavedIsStillPressed) {
    device_.press_power_button();
    test::FakeHost other;
    const auto restored = test::restore_device<Ged>(device_.save(), other.host(), kGsi);
    ASSERT_TRUE(restored.has_value());
    test::write_device(**restored, kEnable, 1);
    EXPECT_TRUE(other.high(kGsi));
    EXPECT_FALSE(GedStateV1::decode(GedStateV1{2, 0}.encode()));
    EXPECT_FALSE(GedStateV1::decode(GedStateV1{0, 0x80}.encode()));
}

}  // namespace
}  // namespace snapvm
