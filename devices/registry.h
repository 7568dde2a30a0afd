// SPDX-License-Identifier: Apache-2.0
// The one list of devices. A machine builds what is in it, fresh or from saved records; the conformance tests run over it. A new device
// is a row here and nothing anywhere else.
#pragma once

#include <memory>
#include <span>

#include "devices/device.h"
#include "devices/device_config.h"

namespace snapvm {

/// Which bus range a device answers, in a machine.
struct BusRange {
    enum class Kind : std::uint8_t { port, mmio };
    Kind kind = Kind::port;
    std::uint64_t base = 0;
    std::uint64_t size = 0;
    BusDevice* device = nullptr;
};

/// A write to this MMIO address signals the eventfd; it is for whoever can do that without a return from the guest to us.
struct Doorbell {
    std::uint64_t address = 0;
    std::uint32_t size = 0;  ///< of the write, in bytes
    int eventfd = -1;  ///< the device's
};

/// A device as a machine holds it.
struct AttachedDevice {
    std::unique_ptr<Device> device;
    std::vector<BusRange> ranges;
    std::vector<Doorbell> doorbells;
};

/// A row of the list: how to build one kind of device, and in which version its record must be.
struct DeviceFactory {
    RecordKind kind{};
    std::uint16_t state_version = 0;
    /// How many of it a machine has.
    std::uint32_t (*count)(const DeviceConfig& config);
    /// Builds one of them, from 0, fresh (`record` null) or from its record, whose kind and version have been checked.
    Result<AttachedDevice> (*build)(const DeviceHost& host, const DeviceConfig& config, std::uint32_t instance,
                                    const StateRecord* record);
};

/// Whether it is one of DeviceConfig's.
[[nodiscard]] bool is_virtio(RecordKind kind);

/// In the order in which a machine builds them; the first is the interrupt controller, which all others need.
[[nodiscard]] std::span<const DeviceFactory> device_factories();

}  // namespace snapvm
