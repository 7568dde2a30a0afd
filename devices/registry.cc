// SPDX-License-Identifier: Apache-2.0
#include "devices/registry.h"

#include <array>

#include "devices/disk/disk.h"
#include "devices/ged/ged.h"
#include "devices/ioapic/ioapic.h"
#include "devices/pvpanic/pvpanic.h"
#include "devices/reset/reset.h"
#include "devices/serial/serial.h"
#include "devices/test_port/test_port.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/rng/rng.h"
#include "devices/virtio/vsock/vsock.h"
#include "devices/vmgenid/vmgenid.h"
#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

BusRange port(std::uint16_t base, std::uint64_t size, BusDevice& device) { return {BusRange::Kind::port, base, size, &device}; }

AttachedDevice attach(std::unique_ptr<Device> device, std::vector<BusRange> ranges) {
    return {std::move(device), std::move(ranges), {}};
}

Result<AttachedDevice> build_ioapic(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                    const StateRecord* record) {
    std::unique_ptr<IoApic> device = record == nullptr ? std::make_unique<IoApic>(host) : TRY(IoApic::restore(host, *record));
    BusDevice& on_bus = *device;
    return attach(std::move(device), {{BusRange::Kind::mmio, platform::kIoApicBase.value, kPageSize, &on_bus}});
}

Result<AttachedDevice> build_serial(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                    const StateRecord* record) {
    constexpr std::uint32_t kGsi = platform::kSerialGsi;
    std::unique_ptr<Serial> device =
        record == nullptr ? std::make_unique<Serial>(host, kGsi) : TRY(Serial::restore(host, kGsi, *record));
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kSerialPort, 8, on_bus)});
}

Result<AttachedDevice> build_reset(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                   const StateRecord* record) {
    std::unique_ptr<Reset> device = record == nullptr ? std::make_unique<Reset>(host) : TRY(Reset::restore(host, *record));
    Reset& reset = *device;
    return attach(std::move(device),
                  {port(platform::kKeyboardPort, 1, reset.keyboard()), port(platform::kResetControlPort, 1, reset),
                   port(platform::kSleepControlPort, 2, reset.sleep())});
}

Result<AttachedDevice> build_test_port(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                       const StateRecord* record) {
    std::unique_ptr<TestPort> device = record == nullptr ? std::make_unique<TestPort>(host) : TRY(TestPort::restore(host, *record));
    TestPort& test_port = *device;
    return attach(std::move(device),
                  {port(platform::kTestPort, 12, test_port), port(platform::kExitPort, 4, test_port.exit_port())});
}

Result<AttachedDevice> build_vmgenid(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                     const StateRecord* record) {
    constexpr Gpa kAt = platform::kVmGenIdBase;
    constexpr std::uint32_t kGsi = platform::kVmGenIdGsi;
    std::unique_ptr<VmGenId> device =
        record == nullptr ? TRY(VmGenId::create(host, kAt, kGsi)) : TRY(VmGenId::restore(host, kAt, kGsi, *record));
    return attach(std::move(device), {});
}

Result<AttachedDevice> build_pvpanic(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                     const StateRecord* record) {
    std::unique_ptr<Pvpanic> device = record == nullptr ? std::make_unique<Pvpanic>(host) : TRY(Pvpanic::restore(host, *record));
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kPanicPort, 1, on_bus)});
}

Result<AttachedDevice> build_ged(const DeviceHost& host, const DeviceConfig& /*config*/, std::uint32_t /*instance*/,
                                 const StateRecord* record) {
    constexpr std::uint32_t kGsi = platform::kEventGsi;
    std::unique_ptr<Ged> device = record == nullptr ? std::make_unique<Ged>(host, kGsi) : TRY(Ged::restore(host, kGsi, *record));
    BusDevice& on_bus = *device;
    return attach(std::move(device), {port(platform::kEventPort, 2, on_bus)});
}

// The registers come first in a record, then what the device has of its own, from which `make` builds it; fresh without.
template <class Make>
Result<AttachedDevice> build_virtio(const DeviceHost& host, const virtio::Place& place, const StateRecord* record, Make make) {
    std::unique_ptr<virtio::Mmio> transport;
    if (record == nullptr) {
        transport = TRY(virtio::Mmio::build(host, place, TRY(make(nullptr)), nullptr));
    } else {
        Decoder in(record->bytes);
        virtio::MmioStateV1 registers = virtio::MmioStateV1::decode(in);
        std::unique_ptr<virtio::Device> device = TRY(make(&in));
        TRY(in.finish(std::string(name_of(place.kind)) + "'s state"));
        transport = TRY(virtio::Mmio::build(host, place, std::move(device), &registers));
    }
    BusDevice& on_bus = *transport;
    const Doorbell doorbell = transport->doorbell();
    AttachedDevice attached = attach(std::move(transport), {{BusRange::Kind::mmio, place.base.value, virtio::kMmioSize, &on_bus}});
    attached.doorbells = {doorbell};
    return attached;
}

virtio::Place place_of(RecordKind kind, const DeviceConfig& config, std::uint32_t instance);

Result<AttachedDevice> build_blk(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                 const StateRecord* record) {
    const DiskConfig& disk = config.disks[instance];
    return build_virtio(host, place_of(RecordKind::virtio_blk, config, instance), record,
                        [&](Decoder* saved) -> Result<std::unique_ptr<virtio::Device>> {
                            DiskOptions options;
                            options.read_only = disk.read_only;
                            std::unique_ptr<Disk> opened =
                                TRY(host.open_disk ? host.open_disk(disk) : open_disk(disk.id, disk.path, std::move(options)));
                            if (saved == nullptr) {
                                return std::make_unique<virtio::Blk>(disk.id, std::move(opened));
                            }
                            return TRY(virtio::Blk::restore(disk.id, std::move(opened), virtio::BlkStateV1::decode(*saved)));
                        });
}

Result<AttachedDevice> build_net(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                 const StateRecord* record) {
    const NetConfig& net = config.nets[instance];
    return build_virtio(host, place_of(RecordKind::virtio_net, config, instance), record,
                        [&](Decoder* saved) -> Result<std::unique_ptr<virtio::Device>> {
                            const auto state = saved == nullptr ? virtio::NetStateV1{} : virtio::NetStateV1::decode(*saved);
                            return TRY(virtio::Net::create(net.mac, TRY(host.open_tap(net.id, net.tap)), state));
                        });
}

Result<AttachedDevice> build_balloon(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                     const StateRecord* record) {
    return build_virtio(host, place_of(RecordKind::virtio_balloon, config, instance), record,
                        [&](Decoder* saved) -> Result<std::unique_ptr<virtio::Device>> {
                            virtio::BalloonStateV1 state;
                            if (saved != nullptr) {
                                state = virtio::BalloonStateV1::decode(*saved);
                            } else if (config.balloon) {
                                state.target_pages = static_cast<std::uint32_t>(config.balloon->bytes / kPageSize);
                            }
                            return TRY(virtio::Balloon::build(state));
                        });
}

Result<AttachedDevice> build_vsock(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                   const StateRecord* record) {
    return build_virtio(host, place_of(RecordKind::virtio_vsock, config, instance), record,
                        [&](Decoder* saved) -> Result<std::unique_ptr<virtio::Device>> {
                            const auto state = saved == nullptr ? virtio::VsockStateV1{} : virtio::VsockStateV1::decode(*saved);
                            return TRY(virtio::Vsock::create(*config.vsock, state));
                        });
}

Result<AttachedDevice> build_rng(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                 const StateRecord* record) {
    return build_virtio(
        host, place_of(RecordKind::virtio_rng, config, instance), record,
        [](Decoder* /*saved*/) -> Result<std::unique_ptr<virtio::Device>> { return std::make_unique<virtio::Rng>(); });
}

Result<AttachedDevice> build_console(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                     const StateRecord* record) {
    return build_virtio(host, place_of(RecordKind::virtio_console, config, instance), record,
                        [&](Decoder* saved) -> Result<std::unique_ptr<virtio::Device>> {
                            auto state = saved == nullptr ? virtio::ConsoleStateV1{} : virtio::ConsoleStateV1::decode(*saved);
                            return TRY(virtio::Console::create(host.console_output, std::move(state)));
                        });
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
    {RecordKind::virtio_vsock, virtio::MmioStateV1::kVersion, [](const DeviceConfig& config) { return config.vsock ? 1U : 0U; },
     build_vsock},
    {RecordKind::virtio_balloon, virtio::MmioStateV1::kVersion, [](const DeviceConfig& config) { return config.balloon ? 1U : 0U; },
     build_balloon},
    {RecordKind::virtio_rng, virtio::MmioStateV1::kVersion, [](const DeviceConfig& config) { return config.rng ? 1U : 0U; },
     build_rng},
    {RecordKind::virtio_console, virtio::MmioStateV1::kVersion, [](const DeviceConfig& config) { return config.console ? 1U : 0U; },
     build_console},
}};

// The places are handed out in the list's order, and so fixed by the configuration.
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

bool is_virtio(RecordKind kind) { return static_cast<std::uint16_t>(kind) >= 64 && static_cast<std::uint16_t>(kind) < 96; }

std::span<const DeviceFactory> device_factories() { return kFactories; }

}  // namespace snapvm
