// SPDX-License-Identifier: Apache-2.0
#include "devices/registry.h"

#include <array>

#include "devices/disk/disk.h"
#include "devices/platform/ged/ged.h"
#include "devices/platform/ioapic/ioapic.h"
#include "devices/platform/pvpanic/pvpanic.h"
#include "devices/platform/reset/reset.h"
#include "devices/platform/serial/serial.h"
#include "devices/platform/test_port/test_port.h"
#include "devices/platform/vmgenid/vmgenid.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/rng/rng.h"
#include "devices/virtio/vsock/vsock.h"
#include "vmm/base/try.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

BusRange port(std::uint16_t base, std::uint64_t size, BusDevice& device) {
    return {BusRange::Kind::port, base, size, &device};
}

AttachedDevice attach(std::unique_ptr<Device> device, std::vector<BusRange> ranges) {
    return {std::move(device), std::move(ranges), {}};
}

Result<AttachedDevice> build_ioapic(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& /*config*/,
                                    std::uint32_t /*instance*/) {
    auto device = std::make_unique<IoApic>(host);
    BusDevice& on_bus = *device;
    return attach(std::move(device), {{BusRange::Kind::mmio, platform::kIoApicBase.value, kPageSize, &on_bus}});
}

Result<AttachedDevice> build_serial(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& /*config*/,
                                    std::uint32_t /*instance*/) {
    auto device = std::make_unique<Serial>(host, platform::kSerialGsi);
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kSerialPort, 8, on_bus)});
}

Result<AttachedDevice> build_reset(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& /*config*/,
                                   std::uint32_t /*instance*/) {
    auto device = std::make_unique<Reset>(host);
    Reset& reset = *device;
    return attach(std::move(device),
                  {port(platform::kKeyboardPort, 1, reset.keyboard()), port(platform::kResetControlPort, 1, reset),
                   port(platform::kSleepControlPort, 2, reset.sleep())});
}

Result<AttachedDevice> build_test_port(const DeviceHost& host, const Openers& /*openers*/,
                                       const DeviceConfig& /*config*/, std::uint32_t /*instance*/) {
    auto device = std::make_unique<TestPort>(host);
    TestPort& test_port = *device;
    return attach(std::move(device),
                  {port(platform::kTestPort, 12, test_port), port(platform::kExitPort, 4, test_port.exit_port())});
}

Result<AttachedDevice> build_vmgenid(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& /*config*/,
                                     std::uint32_t /*instance*/) {
    return attach(std::make_unique<VmGenId>(host, platform::kVmGenIdBase, platform::kVmGenIdGsi), {});
}

Result<AttachedDevice> build_pvpanic(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& /*config*/,
                                     std::uint32_t /*instance*/) {
    auto device = std::make_unique<Pvpanic>(host);
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kPanicPort, 1, on_bus)});
}

Result<AttachedDevice> build_ged(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& /*config*/,
                                 std::uint32_t /*instance*/) {
    auto device = std::make_unique<Ged>(host, platform::kEventGsi);
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kEventPort, 2, on_bus)});
}

// Connects a virtio device to the bus.
Result<AttachedDevice> attach_virtio(const DeviceHost& host, const virtio::Place& place,
                                     std::unique_ptr<virtio::Device> device) {
    std::unique_ptr<virtio::Mmio> transport = TRY(virtio::Mmio::build(host, place, std::move(device)));
    BusDevice& on_bus = *transport;
    const IoEventFd ioeventfd = transport->ioeventfd();
    AttachedDevice attached =
        attach(std::move(transport), {{BusRange::Kind::mmio, place.base.value, virtio::kMmioSize, &on_bus}});
    attached.ioeventfds = {ioeventfd};
    return attached;
}

virtio::Place place_of(RecordKind kind, const DeviceConfig& config, std::uint32_t instance);

Result<AttachedDevice> build_blk(const DeviceHost& host, const Openers& openers, const DeviceConfig& config,
                                 std::uint32_t instance) {
    const DiskConfig& disk = config.disks[instance];
    DiskOptions options;
    options.read_only = disk.read_only;
    options.format = disk.format;
    options.backing = disk.backing;
    options.ephemeral = disk.ephemeral;
    options.ephemeral_max = disk.ephemeral_max;
    options.restored = openers.restored;
    std::unique_ptr<Disk> opened =
        TRY(openers.disk ? openers.disk(disk) : open_disk(disk.id, disk.path, std::move(options)));
    virtio::Blk::Stopped stopped;
    if (disk.write_errors == WriteErrors::stop) {
        stopped = [&pauses = host.pauses](const Error& why) { pauses.request_pause(why); };
    }
    return attach_virtio(host, place_of(RecordKind::virtio_blk, config, instance),
                         std::make_unique<virtio::Blk>(disk.id, std::move(opened), std::move(stopped)));
}

Result<AttachedDevice> build_net(const DeviceHost& host, const Openers& openers, const DeviceConfig& config,
                                 std::uint32_t instance) {
    const NetConfig& net = config.nets[instance];
    return attach_virtio(host, place_of(RecordKind::virtio_net, config, instance),
                         std::make_unique<virtio::Net>(net.mac, TRY(openers.tap(net.id, net.tap))));
}

Result<AttachedDevice> build_balloon(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& config,
                                     std::uint32_t instance) {
    return attach_virtio(host, place_of(RecordKind::virtio_balloon, config, instance),
                         TRY(virtio::Balloon::create(config.balloon ? config.balloon->bytes : 0)));
}

Result<AttachedDevice> build_vsock(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& config,
                                   std::uint32_t instance) {
    return attach_virtio(host, place_of(RecordKind::virtio_vsock, config, instance),
                         TRY(virtio::Vsock::create(*config.vsock)));
}

Result<AttachedDevice> build_rng(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& config,
                                 std::uint32_t instance) {
    return attach_virtio(host, place_of(RecordKind::virtio_rng, config, instance), std::make_unique<virtio::Rng>());
}

Result<AttachedDevice> build_console(const DeviceHost& host, const Openers& /*openers*/, const DeviceConfig& config,
                                     std::uint32_t instance) {
    return attach_virtio(host, place_of(RecordKind::virtio_console, config, instance),
                         std::make_unique<virtio::Console>(host.console_output));
}

std::uint32_t always_one(const DeviceConfig& /*config*/) { return 1; }

constexpr std::array<DeviceFactory, 13> kFactories = {{
    {RecordKind::ioapic, IoApicStateV1::kVersion, always_one, build_ioapic},
    {RecordKind::serial, SerialStateV1::kVersion, always_one, build_serial},
    {RecordKind::reset, ResetStateV1::kVersion, always_one, build_reset},
    {RecordKind::test_port, TestPortStateV1::kVersion, always_one, build_test_port},
    {RecordKind::vmgenid, VmGenIdStateV1::kVersion, always_one, build_vmgenid},
    {RecordKind::pvpanic, PvpanicStateV1::kVersion, always_one, build_pvpanic},
    {RecordKind::ged, GedStateV1::kVersion, always_one, build_ged},
    // Virtio devices, in the order of their places on the bus (PLATFORM.md).
    {RecordKind::virtio_blk, virtio::MmioStateV1::kVersion,
     [](const DeviceConfig& config) { return static_cast<std::uint32_t>(config.disks.size()); }, build_blk},
    {RecordKind::virtio_net, virtio::MmioStateV1::kVersion,
     [](const DeviceConfig& config) { return static_cast<std::uint32_t>(config.nets.size()); }, build_net},
    {RecordKind::virtio_vsock, virtio::MmioStateV1::kVersion,
     [](const DeviceConfig& config) { return config.vsock ? 1U : 0U; }, build_vsock},
    {RecordKind::virtio_balloon, virtio::MmioStateV1::kVersion,
     [](const DeviceConfig& config) { return config.balloon ? 1U : 0U; }, build_balloon},
    {RecordKind::virtio_rng, virtio::MmioStateV1::kVersion,
     [](const DeviceConfig& config) { return config.rng ? 1U : 0U; }, build_rng},
    {RecordKind::virtio_console, virtio::MmioStateV1::kVersion,
     [](const DeviceConfig& config) { return config.console ? 1U : 0U; }, build_console},
}};

// The configuration determines the places: they are assigned in the order of the list.
virtio::Place place_of(RecordKind kind, const DeviceConfig& config, std::uint32_t instance) {
    std::uint32_t number = instance;
    for (const DeviceFactory& factory : kFactories) {
        if (factory.kind == kind) {
            break;
        }
        number += is_virtio(factory.kind) ? factory.count(config) : 0;
    }
    return {kind, instance, platform::kVirtioBase + number * platform::kVirtioStride, platform::kVirtioGsi + number};
}

}  // namespace

bool is_virtio(RecordKind kind) {
    return static_cast<std::uint16_t>(kind) >= 64 && static_cast<std::uint16_t>(kind) < 96;
}

std::span<const DeviceFactory> device_factories() { return kFactories; }

}  // namespace snapvm
