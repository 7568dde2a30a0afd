// SPDX-License-Identifier: Apache-2.0
// All devices of a machine adopt a state together.
#include "vmm/machine/device_set.h"

#include "tests/conformance/fake_host.h"
#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm {
namespace {

using test::fails;
using test::need;
using test::ok;

class DeviceSetTest : public ::testing::Test {
protected:
    DeviceSetTest() {
        DeviceHost host = fake_.host();
        host.interrupts = nullptr;  // the set's own interrupt controller
        DeviceConfig config = test::all_devices();
        config.vsock->socket = scratch_.file("vsock");
        devices_ = need(DeviceSet::build(host, fake_.openers(), config));
        EXPECT_TRUE(ok(devices_.power_on()));
    }
    [[nodiscard]] std::vector<StateRecord> save() const {
        std::vector<StateRecord> records;
        for (const DeviceSet::Entry& entry : devices_.all()) {
            records.push_back(entry.attached.device->save());
        }
        return records;
    }
    [[nodiscard]] Result<DeviceSet::States> parse(const std::vector<StateRecord>& records) const {
        RecordReader reader(records);
        return devices_.parse(reader);
    }
    /// Routes the power button's pin to a vector, level-triggered, and enables the event.
    void enable_power_button() {
        test::write_device(devices_.ioapic(), 0x00, 0x10 + 2 * platform::kEventGsi, 4);
        test::write_device(devices_.ioapic(), 0x10, 0x8041, 4);
        test::write_device(devices_.events(), 1, platform::kPowerButtonEvent);
    }

    test::ScratchFolder scratch_;
    test::FakeHost fake_;
    DeviceSet devices_;
};

TEST_F(DeviceSetTest, GoesBackToAStateAndOnFromIt) {
    enable_power_button();
    const std::vector<StateRecord> then = save();
    const DeviceSet::States states = need(parse(then));
    ASSERT_EQ(states.size(), devices_.all().size());
    for (int times = 0; times < 3; ++times) {
        fake_.messages.clear();
        EXPECT_TRUE(devices_.events().press_power_button());
        test::write_device(devices_.serial(), 7, 0x5A);
        EXPECT_EQ(fake_.messages.size(), 1U) << "the pin was low";
        EXPECT_EQ(devices_.ioapic().awaiting_eoi().size(), 1U);
        EXPECT_FALSE(save() == then);
        devices_.adopt(states);
        EXPECT_TRUE(save() == then);
        EXPECT_TRUE(devices_.ioapic().awaiting_eoi().empty());
        for (const DeviceSet::Entry& entry : devices_.all()) {
            EXPECT_TRUE(ok(entry.attached.device->restored()));
        }
    }
    EXPECT_EQ(fake_.published.size(), 1U) << "KVM has the routes already";
}

TEST_F(DeviceSetTest, RecordsThatDoNotFitChangeNoDevice) {
    const std::vector<StateRecord> then = save();
    for (std::size_t i = 0; i < then.size(); ++i) {
        std::vector<StateRecord> bad = then;
        bad[i].bytes.push_back(std::byte{0});
        EXPECT_TRUE(fails(parse(bad), ErrorKind::invalid)) << i;
        bad.erase(bad.begin() + static_cast<std::ptrdiff_t>(i));
        EXPECT_TRUE(fails(parse(bad), ErrorKind::invalid)) << i;
        bad = then;
        ++bad[i].version;
        EXPECT_TRUE(fails(parse(bad), ErrorKind::unsupported)) << i;
    }
    EXPECT_TRUE(save() == then);
}

}  // namespace
}  // namespace snapvm
