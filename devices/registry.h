// SPDX-License-Identifier: Apache-2.0
// The list of devices. A machine builds them from it, and the conformance tests run over it. A new
// device also needs a record kind, its configuration (DeviceConfig), an entry in the tests'
// all_devices(), a fuzz seed, and its files in CMake.
#pragma once

#include <memory>
#include <span>

#include "devices/base/attached_device.h"
#include "devices/base/device.h"
#include "devices/config/device_config.h"
#include "devices/disk/disk.h"
#include "devices/tap/tap.h"

namespace snapvm {

/// How the host's side of devices is opened. Tests replace these functions.
struct Openers {
    DiskOpener disk = {};  ///< null: open_disk(), for a file or block device
    OpenTap tap = open_tap;
    bool restored = false;  ///< the devices are a saved machine's (DiskOptions::restored)
};

/// A row of the list: how one kind of device is built, and the version that its record must have.
struct DeviceFactory {
    RecordKind kind{};
    std::uint16_t state_version = 0;
    /// Returns the number of such devices in a machine.
    std::uint32_t (*count)(const DeviceConfig& config);
    /// Constructs the device `instance` (from 0). Then it is switched on or adopts a state.
    Result<AttachedDevice> (*build)(const DeviceHost& host, const Openers& openers, const DeviceConfig& config,
                                    std::uint32_t instance);
};

/// Whether a record of this kind is of a virtio device.
[[nodiscard]] bool is_virtio(RecordKind kind);

/// Returns the list, in the order in which a machine builds the devices. The first is the interrupt
/// controller, which all others need.
[[nodiscard]] std::span<const DeviceFactory> device_factories();

}  // namespace snapvm
