// SPDX-License-Identifier: Apache-2.0
#include "devices/registry.h"

#include <array>

#include "devices/ioapic/ioapic.h"
#include "devices/reset/reset.h"
#include "devices/serial/serial.h"
#include "devices/test_port/test_port.h"
#include "devices/vmgenid/vmgenid.h"
#include "vmm/base/try.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

BusRange port(std::uint16_t base, std::uint64_t size, BusDevice& device) { return {BusRange::Kind::port, base, size, &device}; }

AttachedDevice attach(std::unique_ptr<Device> device, std::vector<BusRange> ranges) {
    return {std::move(device), std::move(ranges)};
}

Result<AttachedDevice> build_ioapic(const DeviceHost& host, const StateRecord* record) {
    std::unique_ptr<IoApic> device = record == nullptr ? std::make_unique<IoApic>(host) : TRY(IoApic::restore(host, *record));
    BusDevice& on_bus = *device;
    return attach(std::move(device), {{BusRange::Kind::mmio, platform::kIoApicBase.value, kPageSize, &on_bus}});
}

Result<AttachedDevice> build_serial(const DeviceHost& host, const StateRecord* record) {
    constexpr std::uint32_t kGsi = platform::kSerialGsi;
    std::unique_ptr<Serial> device =
        record == nullptr ? std::make_unique<Serial>(host, kGsi) : TRY(Serial::restore(host, kGsi, *record));
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kSerialPort, 8, on_bus)});
}

Result<AttachedDevice> build_reset(const DeviceHost& host, const StateRecord* record) {
    std::unique_ptr<Reset> device = record == nullptr ? std::make_unique<Reset>(host) : TRY(Reset::restore(host, *record));
    Reset& reset = *device;
    return attach(std::move(device),
                  {port(platform::kKeyboardPort, 1, reset.keyboard()), port(platform::kResetControlPort, 1, reset),
                   port(platform::kSleepControlPort, 1, reset.sleep())});
}

Result<AttachedDevice> build_test_port(const DeviceHost& host, const StateRecord* record) {
    std::unique_ptr<TestPort> device = record == nullptr ? std::make_unique<TestPort>(host) : TRY(TestPort::restore(host, *record));
    TestPort& test_port = *device;
    return attach(std::move(device),
                  {port(platform::kTestPort, 12, test_port), port(platform::kExitPort, 4, test_port.exit_port())});
}

Result<AttachedDevice> build_vmgenid(const DeviceHost& host, const StateRecord* record) {
    constexpr Gpa kAt = platform::kVmGenIdBase;
    constexpr std::uint32_t kGsi = platform::kVmGenIdGsi;
    std::unique_ptr<VmGenId> device =
        record == nullptr ? TRY(VmGenId::create(host, kAt, kGsi)) : TRY(VmGenId::restore(host, kAt, kGsi, *record));
    return attach(std::move(device), {});
}

constexpr std::array<DeviceFactory, 5> kFactories = {{
    {RecordKind::ioapic, IoApicStateV1::kVersion, build_ioapic},
    {RecordKind::serial, SerialStateV1::kVersion, build_serial},
    {RecordKind::reset, ResetStateV1::kVersion, build_reset},
    {RecordKind::test_port, TestPortStateV1::kVersion, build_test_port},
    {RecordKind::vmgenid, VmGenIdStateV1::kVersion, build_vmgenid},
}};

}  // namespace

std::span<const DeviceFactory> device_factories() { return kFactories; }

}  // namespace snapvm
