// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/device_set.h"

#include "vmm/base/try.h"

namespace snapvm {
namespace {

// The registry builds one type for each kind (devices/registry.cc), so the kind tells the type.
template <class T>
T& as(Device& device) {
    return static_cast<T&>(device);
}

template <class T>
VirtioHandle<T> behind(Device& device) {
    auto& transport = as<virtio::Mmio>(device);
    return {transport, static_cast<T&>(transport.device())};
}

}  // namespace

void DeviceSet::note(RecordKind kind, Device& device) {
    if (is_virtio(kind)) {
        transports_.push_back(&as<virtio::Mmio>(device));
    }
    switch (kind) {
        case RecordKind::ioapic: ioapic_ = &as<IoApic>(device); break;
        case RecordKind::serial: serial_ = &as<Serial>(device); break;
        case RecordKind::test_port: test_port_ = &as<TestPort>(device); break;
        case RecordKind::pvpanic: pvpanic_ = &as<Pvpanic>(device); break;
        case RecordKind::ged: events_ = &as<Ged>(device); break;
        case RecordKind::virtio_balloon: balloon_ = behind<virtio::Balloon>(device); break;
        case RecordKind::virtio_console: console_ = behind<virtio::Console>(device); break;
        case RecordKind::virtio_blk: disks_.push_back(behind<virtio::Blk>(device)); break;
        case RecordKind::virtio_net: nets_.push_back(behind<virtio::Net>(device)); break;
        default: break;
    }
}

Result<DeviceSet> DeviceSet::build(DeviceHost host, const Openers& openers, const DeviceConfig& config) {
    DeviceSet set;
    for (const DeviceFactory& factory : device_factories()) {
        for (std::uint32_t instance = 0; instance < factory.count(config); ++instance) {
            AttachedDevice attached = TRY(factory.build(host, openers, config, instance));
            set.note(factory.kind, *attached.device);
            host.interrupts = set.ioapic_;
            set.all_.push_back({&factory, instance, std::move(attached)});
        }
    }
    if (set.transports_.size() != config.virtio_devices()) {
        return fail(ErrorKind::unsupported, "the configuration has devices that this version of snapvm does not have",
                    "use the version that wrote it");
    }
    return set;
}

Status DeviceSet::power_on() {
    for (const Entry& entry : all_) {
        TRY(entry.attached.device->power_on());
    }
    return {};
}

Result<DeviceSet::States> DeviceSet::parse(RecordReader& records) const {
    States states;
    for (const Entry& entry : all_) {
        const DeviceFactory& factory = *entry.factory;
        const StateRecord* record = TRY(records.take(factory.kind, entry.instance, factory.state_version));
        states.push_back(TRY(entry.attached.device->parse(*record)));
    }
    return states;
}

void DeviceSet::adopt(const States& states) noexcept {
    for (std::size_t i = 0; i < all_.size(); ++i) {
        all_[i].attached.device->adopt(*states[i]);
    }
}

std::vector<PartCounters> counters_of(std::span<const DeviceSet::Entry> devices) {
    std::vector<PartCounters> parts;
    for (const DeviceSet::Entry& entry : devices) {
        std::vector<Counters::Value> values = entry.attached.device->counters().read();
        if (!values.empty() && entry.factory->kind != RecordKind::virtio_net) {
            parts.push_back({std::string(entry.name()) + "-" + std::to_string(entry.instance), std::move(values)});
        }
    }
    return parts;
}

}  // namespace snapvm
