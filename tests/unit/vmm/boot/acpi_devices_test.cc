// SPDX-License-Identifier: Apache-2.0
// FADT and DSDT, read back: what they say of ports, memory and interrupts is what the machine has
// (platform.h, PLATFORM.md).
#include <algorithm>

#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/boot/acpi_reader.h"
#include "vmm/boot/acpi.h"

namespace snapvm {
namespace {

using test::AcpiDevice;
using test::get;
using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
using Trigger = AcpiDevice::Trigger;
using Interrupts = std::vector<std::pair<std::uint32_t, Trigger>>;

class AcpiDevices : public ::testing::TestWithParam<std::uint32_t> {
protected:
    std::vector<std::byte> block_ = acpi_tables({.cpus = 2, .virtio_devices = GetParam()}).value();
    std::map<std::string, std::span<const std::byte>> tables_ = test::all_tables(block_);
    test::AmlReader dsdt_{tables_.at("DSDT").subspan(36)};
};

// A generic address of one byte-wide port.
std::uint64_t port_at(std::span<const std::byte> table, std::size_t at) {
    EXPECT_EQ(get<std::uint32_t>(table, at), 0x01000801U);
    return get<std::uint64_t>(table, at + 4);
}

TEST_P(AcpiDevices, FadtIsOfReducedHardwareAndNamesOurPorts) {
    const auto fadt = tables_.at("FACP");
    ASSERT_EQ(fadt.size(), 276U);
    EXPECT_EQ(get<std::uint8_t>(fadt, 8), 6);
    const auto flags = get<std::uint32_t>(fadt, 112);
    EXPECT_NE(flags & 1U << 20, 0U) << "HW_REDUCED_ACPI";
    EXPECT_NE(flags & 1U << 10, 0U) << "RESET_REG_SUP";
    EXPECT_NE(flags & 1U << 4, 0U) << "PWR_BUTTON: a control method's";
    EXPECT_EQ(port_at(fadt, 116), platform::kResetControlPort);
    EXPECT_EQ(get<std::uint8_t>(fadt, 128), 0x06) << "which reboots (devices/reset)";
    EXPECT_EQ(port_at(fadt, 244), platform::kSleepControlPort);
    EXPECT_EQ(port_at(fadt, 256), platform::kSleepStatusPort);
    EXPECT_EQ(get<std::uint32_t>(fadt, 40), get<std::uint64_t>(fadt, 140)) << "DSDT and X_DSDT";
}

TEST_P(AcpiDevices, SoftOffIsWhatTheSleepControlRegisterTakes) {
    const std::vector<std::uint64_t> s5 = dsdt_.root.packages.at("_S5_");
    ASSERT_EQ(s5.size(), 4U);
    EXPECT_EQ(s5[0] << 2 | 0x20, 0x34U);
    EXPECT_EQ(platform::kSoftOffValue, 0x34);
}

TEST_P(AcpiDevices, EachHasItsPlatformResources) {
    EXPECT_EQ(dsdt_.devices.size(), 5U + GetParam());
    const AcpiDevice& serial = dsdt_.devices.at("COM1");
    EXPECT_EQ(serial.integers.at("_HID"), 0x0105D041U);
    EXPECT_EQ(serial.ports, (Ranges{{platform::kSerialPort, 8}}));
    EXPECT_EQ(serial.interrupts, (Interrupts{{platform::kSerialGsi, Trigger::edge}}));

    const AcpiDevice& panic = dsdt_.devices.at("PVPN");
    EXPECT_EQ(panic.strings.at("_HID"), "QEMU0001");
    EXPECT_EQ(panic.ports, (Ranges{{platform::kPanicPort, 1}}));

    const AcpiDevice& generation = dsdt_.devices.at("VGEN");
    EXPECT_EQ(generation.strings.at("_CID"), "VM_Gen_Counter");
    const std::vector<std::uint64_t> address = generation.packages.at("ADDR");
    ASSERT_EQ(address.size(), 2U);
    EXPECT_EQ(address[0] | address[1] << 32, platform::kVmGenIdBase.value);

    EXPECT_EQ(dsdt_.devices.at("PWRB").integers.at("_HID"), 0x0C0CD041U);

    const AcpiDevice& events = dsdt_.devices.at("GED0");
    EXPECT_EQ(events.strings.at("_HID"), "ACPI0013");
    EXPECT_EQ(events.regions, (Ranges{{platform::kEventPort, 2}}));
    EXPECT_EQ(events.interrupts,
              (Interrupts{{platform::kVmGenIdGsi, Trigger::edge}, {platform::kEventGsi, Trigger::level}}));
}

TEST_P(AcpiDevices, EachVirtioDeviceIsWhereTheBusHasIt) {
    std::uint32_t seen = 0;
    for (const auto& [name, device] : dsdt_.devices) {
        if (!name.starts_with("VR")) {
            continue;
        }
        const auto number = static_cast<std::uint32_t>(std::stoul(name.substr(2)));
        EXPECT_EQ(number, seen++);
        EXPECT_EQ(device.strings.at("_HID"), "LNRO0005");
        EXPECT_EQ(device.integers.at("_UID"), number);
        EXPECT_EQ(
            device.memory,
            (Ranges{{(platform::kVirtioBase + number * platform::kVirtioStride).value, platform::kVirtioStride}}));
        EXPECT_EQ(device.interrupts, (Interrupts{{platform::kVirtioGsi + number, Trigger::edge}}));
        EXPECT_LT(platform::kVirtioGsi + number, platform::kIoApicPins);
    }
    EXPECT_EQ(seen, GetParam());
}

TEST_P(AcpiDevices, NoTwoHaveAnInterruptInCommon) {
    std::vector<std::uint32_t> all;
    for (const auto& [name, device] : dsdt_.devices) {
        for (const auto& [gsi, trigger] : device.interrupts) {
            all.push_back(gsi);
        }
    }
    std::ranges::sort(all);
    EXPECT_EQ(std::ranges::adjacent_find(all), all.end());
}

INSTANTIATE_TEST_SUITE_P(Virtio, AcpiDevices, ::testing::Values(0, 1, 7, 16));

TEST(AcpiTables, AreRefusedWhereTheFirmwareBlockIsTooSmall) {
    EXPECT_TRUE(test::fails(acpi_tables({.cpus = 10'000, .virtio_devices = 0}), ErrorKind::invalid, "64 KiB"));
    const auto largest = acpi_tables({.cpus = platform::kMaxCpus, .virtio_devices = 16});
    ASSERT_TRUE(test::ok(largest));
    EXPECT_LE(largest->size(), platform::kFirmwareSize);
}

}  // namespace
}  // namespace snapvm
