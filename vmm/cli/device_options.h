// SPDX-License-Identifier: Apache-2.0
// Devices as the command line names them: `--disk id=ID,path=F`, and `--set DEVICE.KEY=VALUE` for those of a snapshot, where DEVICE is a kind,
// and the id behind it where a machine may have several.
#pragma once

#include <span>
#include <string>

#include "devices/device_config.h"
#include "vmm/base/error.h"

namespace snapvm::cli {

/// "id=root,path=F[,readonly=on|off]". The path is made absolute: the configuration outlives the folder that this runs in.
Result<DiskConfig> parse_disk(const std::string& text);
Result<VsockConfig> parse_vsock(const std::string& text);
/// "id=eth0,tap=T[,mac=M]"; without a MAC a random one, which the machine and its snapshots keep.
Result<NetConfig> parse_net(const std::string& text);

/// `text` with the number of the clone in place of each "{i}".
[[nodiscard]] std::string for_clone(std::string text, unsigned clone);

/// Changes one thing on the host's side of a snapshot's devices: "disk.ID.path=F", "net.ID.tap=T", "vsock.socket=P", "vsock.cid=N", with "{i}" in the value
/// for the number of the clone. Paths of disks are made absolute, as above.
Status set_device(DeviceConfig& devices, const std::string& text, unsigned clone);

/// Refuses what `count` clones of one machine cannot have together, each with these settings: a disk that they write, a tap, a socket.
Status check_clones(const DeviceConfig& devices, std::span<const std::string> settings, unsigned count);

}  // namespace snapvm::cli
