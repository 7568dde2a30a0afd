// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/pvpanic/pvpanic.h"

#include "tests/conformance/fake_host.h"

namespace snapvm {
namespace {

using Requests = std::vector<std::pair<GuestRequest, std::uint8_t>>;

class PvpanicTest : public ::testing::Test {
protected:
    test::FakeHost host_;
    Pvpanic device_{host_.host()};
};

TEST_F(PvpanicTest, SaysWhichEventsItKnows) { EXPECT_EQ(test::read_device(device_, 0), 3U); }

TEST_F(PvpanicTest, BitZeroAloneEndsTheRun) {
    for (int value = 0; value < 256; ++value) {
        host_.requests.clear();
        test::write_device(device_, 0, static_cast<std::uint64_t>(value));
        EXPECT_EQ(host_.requests, (value & 1) != 0 ? Requests({{GuestRequest::panic, 0}}) : Requests{}) << value;
    }
}

TEST_F(PvpanicTest, ACrashKernelIsRememberedAndGoesOn) {
    EXPECT_FALSE(device_.has_crash_kernel());
    test::write_device(device_, 0, 2);
    EXPECT_TRUE(device_.has_crash_kernel());
    EXPECT_TRUE(host_.requests.empty());
    EXPECT_TRUE(test::restore_device<Pvpanic>(device_.save(), host_.host()).value()->has_crash_kernel());
}

}  // namespace
}  // namespace snapvm
