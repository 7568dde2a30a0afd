// SPDX-License-Identifier: Apache-2.0
// Parses devices on the command line: `--disk id=ID,path=F` for a new machine, and `--set
// DEVICE.KEY=VALUE` for those of a snapshot. DEVICE is a kind, followed by an id if a machine can
// have several of the kind.
#pragma once

#include <span>
#include <string>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"
#include "vmm/control/device_overrides.h"

namespace snapvm::cli {

/// Parses "id=root,path=F[,format=raw|qcow2][,readonly=on|off][,backing=F][,werror=stop|report]
/// [,ephemeral=on|off|memory|file][,ephemeral-max=SIZE]".
/// Makes the path absolute, since the configuration is used from other working directories later.
Result<DiskConfig> parse_disk(const std::string& text);
Result<VsockConfig> parse_vsock(const std::string& text);
/// Parses "id=eth0,tap=T[,mac=M]". Without a MAC it takes a random one, which the machine and its
/// snapshots keep.
Result<NetConfig> parse_net(const std::string& text);

/// Replaces each "{i}" in `text` by the number of the clone.
[[nodiscard]] std::string for_clone(std::string text, unsigned clone);

/// Parses the settings of one clone: "disk.ID.path=F", "disk.ID.backing=F", "net.ID.tap=T",
/// "vsock.socket=P", "vsock.cid=N". "{i}" in a value stands for the number of the clone. The last
/// one of a device counts.
Result<DeviceOverrides> parse_settings(std::span<const std::string> settings, unsigned clone);

/// Fails with usage if `count` clones with these settings would share a disk that they write, a
/// tap, or a socket.
Status check_clones(const DeviceConfig& devices, std::span<const std::string> settings, unsigned count);

}  // namespace snapvm::cli
