// SPDX-License-Identifier: Apache-2.0
#include "devices/vmgenid/vmgenid.h"

#include "tests/conformance/fake_host.h"
#include "tests/unit/result_matchers.h"

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
    ASSERT_TRUE(test::ok(VmGenId::create(host_.host(), kAt, kGsi)));
    const Id first = id();
    EXPECT_NE(first, Id{});
    ASSERT_TRUE(test::ok(VmGenId::create(host_.host(), kAt, kGsi)));
    EXPECT_NE(id(), first);
    EXPECT_TRUE(host_.log.empty());
}

// Until it runs, a restored machine is the snapshot's to the bit.
TEST_F(VmGenIdTest, IdChangesWhenTheRestoredMachineFirstRunsAndNotBefore) {
    const auto original = VmGenId::create(host_.host(), kAt, kGsi);
    ASSERT_TRUE(test::ok(original));
    const Id saved = id();
    const StateRecord record = (*original)->save();
    const auto restored = VmGenId::restore(host_.host(), kAt, kGsi, record);
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
    const auto device = VmGenId::create(host, kAt, kGsi);
    ASSERT_TRUE(test::ok(device));
    ASSERT_TRUE(test::ok((*device)->restored()));
    EXPECT_EQ(watch.seen, id());
}

TEST_F(VmGenIdTest, TwoClonesOfOneSnapshotGetDifferentIds) {
    const StateRecord record = VmGenId::create(host_.host(), kAt, kGsi).value()->save();
    test::FakeHost other;
    ASSERT_TRUE(test::ok(VmGenId::restore(host_.host(), kAt, kGsi, record).value()->restored()));
    ASSERT_TRUE(test::ok(VmGenId::restore(other.host(), kAt, kGsi, record).value()->restored()));
    EXPECT_NE(id(), other.memory.load<Id>(kAt).value());
}

TEST_F(VmGenIdTest, WithoutItsMemoryItFails) { EXPECT_FALSE(VmGenId::create(host_.host(), Gpa{0xF0000000}, kGsi)); }

}  // namespace
}  // namespace snapvm
