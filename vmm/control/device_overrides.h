// SPDX-License-Identifier: Apache-2.0
// Changes the host's side of a snapshot's devices at a restore.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"

namespace snapvm {

/// What devices use on this host in place of what the snapshot names. The command line has them
/// from `--set`, the API from the overrides of a request, embedders from RestoreOptions.
struct DeviceOverrides {
    std::map<std::string, std::string> disks = {};  ///< a disk's id, and the path of its file
    std::map<std::string, std::string> backing = {};  ///< a disk's id, and a backing file that its image may name
    std::map<std::string, std::string> taps = {};   ///< a network interface's id, and its tap
    std::optional<std::string> vsock_socket = {};
    std::optional<std::uint32_t> vsock_cid = {};

    /// Changes the devices. Makes paths of disks absolute. A disk that is read-only stays so. Fails
    /// with usage if there is no such device, or a value is not allowed.
    Status apply(DeviceConfig& devices) const;
};

}  // namespace snapvm
