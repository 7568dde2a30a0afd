// SPDX-License-Identifier: Apache-2.0
// A machine's devices: all in the registry's order, and those that the machine itself uses by type.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "devices/platform/ged/ged.h"
#include "devices/platform/ioapic/ioapic.h"
#include "devices/platform/pvpanic/pvpanic.h"
#include "devices/platform/serial/serial.h"
#include "devices/platform/test_port/test_port.h"
#include "devices/registry.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/net/net.h"
#include "vmm/base/counters.h"
#include "vmm/base/error.h"

namespace snapvm {

/// A virtio device behind its transport, or none. Callers use it with the transport's lock held.
template <class T>
class VirtioHandle {
public:
    VirtioHandle() = default;
    VirtioHandle(virtio::Mmio& transport, T& device) : transport_(&transport), device_(&device) {}

    explicit operator bool() const { return device_ != nullptr; }
    /// Runs `what(device)` with the lock held and returns its result. The device must exist.
    template <class What>
    auto locked(What what) const {
        return transport_->locked([&] { return what(*device_); });
    }
    /// Returns the device for calls that it allows without the lock. The device must exist.
    [[nodiscard]] T& unlocked() const { return *device_; }

private:
    virtio::Mmio* transport_ = nullptr;
    T* device_ = nullptr;
};

/// The devices of one machine; it lives as long as the machine. Each device's rules on threads
/// apply.
class DeviceSet {
public:
    /// A device, its row in the registry, and its number among its kind.
    struct Entry {
        const DeviceFactory* factory = nullptr;
        std::uint32_t instance = 0;
        AttachedDevice attached;

        [[nodiscard]] std::string_view name() const { return name_of(factory->kind); }
    };
    /// The parsed states of all devices, in their order.
    using States = std::vector<std::unique_ptr<const ParsedState>>;

    /// Constructs the devices of a configuration. The interrupt controller is built first and fills
    /// in `host.interrupts`. Fails like a device's build, or with unsupported if the configuration
    /// has devices of an unknown kind.
    static Result<DeviceSet> build(DeviceHost host, const Openers& openers, const DeviceConfig& config);

    /// Switches the devices of a new machine on. Those of a restored machine adopt states instead.
    Status power_on();
    /// Takes the devices' records and checks them. Changes no device. Fails as RecordReader::take
    /// and Device::parse do.
    Result<States> parse(RecordReader& records) const;
    /// Puts all devices into states that they have parsed, as Device::adopt says. The same states
    /// may be adopted any number of times.
    void adopt(const States& states) noexcept;
    [[nodiscard]] std::span<const Entry> all() const { return all_; }

    [[nodiscard]] IoApic& ioapic() const { return *ioapic_; }
    [[nodiscard]] Serial& serial() const { return *serial_; }
    [[nodiscard]] TestPort& test_port() const { return *test_port_; }
    [[nodiscard]] Pvpanic& pvpanic() const { return *pvpanic_; }
    [[nodiscard]] Ged& events() const { return *events_; }
    [[nodiscard]] VirtioHandle<virtio::Balloon> balloon() const { return balloon_; }
    [[nodiscard]] VirtioHandle<virtio::Console> console() const { return console_; }
    /// Returns the network devices in the configuration's order.
    [[nodiscard]] std::span<const VirtioHandle<virtio::Net>> nets() const { return nets_; }
    /// Returns the disks in the configuration's order.
    [[nodiscard]] std::span<const VirtioHandle<virtio::Blk>> disks() const { return disks_; }
    /// Returns all transports in the order of their addresses.
    [[nodiscard]] std::span<virtio::Mmio* const> transports() const { return transports_; }

private:
    void note(RecordKind kind, Device& device);

    std::vector<Entry> all_;
    IoApic* ioapic_ = nullptr;
    Serial* serial_ = nullptr;
    TestPort* test_port_ = nullptr;
    Pvpanic* pvpanic_ = nullptr;
    Ged* events_ = nullptr;
    VirtioHandle<virtio::Balloon> balloon_;
    VirtioHandle<virtio::Console> console_;
    std::vector<VirtioHandle<virtio::Blk>> disks_;
    std::vector<VirtioHandle<virtio::Net>> nets_;
    std::vector<virtio::Mmio*> transports_;
};

/// Returns the counters of the devices that have some, but for network interfaces, which
/// Machine::stats() shows with their links. A part's name is that of the device's kind and its
/// number, "virtio-balloon-0".
[[nodiscard]] std::vector<PartCounters> counters_of(std::span<const DeviceSet::Entry> devices);

}  // namespace snapvm
