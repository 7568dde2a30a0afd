// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/vmgenid/vmgenid.h"

#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using Id = std::array<std::byte, 16>;
constexpr Gpa kAt = platform::kVmGenIdBase;
constexpr std::uint32_t kGsi = platform::kVmGenIdGsi;

class VmGenIdTest : public ::testing::Test {
protected:
    [[nodiscard]] Id id() { return host_.memory.load<Id>(kAt).value(); }
    test::FakeHost host_;
};

TEST_F(VmGenIdTest, AFreshMachineHasARandomIdAndNoInterrupt) {
    ASSERT_TRUE(test::ok(VmGenId(host_.host(), kAt, kGsi).power_on()));
    const Id first = id();
    EXPECT_NE(first, Id{});
    ASSERT_TRUE(test::ok(VmGenId(host_.host(), kAt, kGsi).power_on()));
    EXPECT_NE(id(), first);
    EXPECT_TRUE(host_.log.empty());
}

// Until it runs, a restored machine is the snapshot's to the bit.
TEST_F(VmGenIdTest, IdChangesWhenTheRestoredMachineFirstRunsAndNotBefore) {
    VmGenId original(host_.host(), kAt, kGsi);
    ASSERT_TRUE(test::ok(original.power_on()));
    const Id saved = id();
    const StateRecord record = original.save();
    const auto restored = test::restore_device<VmGenId>(record, host_.host(), kAt, kGsi);
    ASSERT_TRUE(test::ok(restored));
    EXPECT_EQ(id(), saved);
    EXPECT_TRUE((*restored)->save() == record);
    EXPECT_TRUE(host_.log.empty());

    ASSERT_TRUE(test::ok((*restored)->restored()));
    EXPECT_NE(id(), saved);
    EXPECT_EQ(host_.log, (std::vector<std::string>{"pin 5 high", "pin 5 low"}));
    EXPECT_EQ(VmGenIdStateV1::decode((*restored)->save().bytes).value().generation, 1U);
}

TEST_F(VmGenIdTest, TheGuestIsToldAfterTheIdIsThere) {
    struct Watch final : InterruptSink {
        explicit Watch(GuestMemory& watched) : memory(watched) {}
        void set_level(std::uint32_t /*gsi*/, bool high) override {
            if (high) {
                seen = memory.load<Id>(kAt).value();
            }
        }
        GuestMemory& memory;
        Id seen{};
    } watch(host_.memory);
    DeviceHost host = host_.host();
    host.interrupts = &watch;
    ASSERT_TRUE(test::ok(VmGenId(host, kAt, kGsi).restored()));
    EXPECT_EQ(watch.seen, id());
}

TEST_F(VmGenIdTest, TwoClonesOfOneSnapshotGetDifferentIds) {
    const StateRecord record = VmGenId(host_.host(), kAt, kGsi).save();
    test::FakeHost other;
    ASSERT_TRUE(test::ok(test::restore_device<VmGenId>(record, host_.host(), kAt, kGsi).value()->restored()));
    ASSERT_TRUE(test::ok(test::restore_device<VmGenId>(record, other.host(), kAt, kGsi).value()->restored()));
    EXPECT_NE(id(), other.memory.load<Id>(kAt).value());
}

TEST_F(VmGenIdTest, WithoutItsMemoryItFails) { EXPECT_FALSE(VmGenId(host_.host(), Gpa{0xF0000000}, kGsi).power_on()); }

}  // namespace
}  // namespace snapvm
