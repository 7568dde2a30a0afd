// SPDX-License-Identifier: Apache-2.0
// Devices as the command line names them: `--disk id=ID,path=F`, and `--set DEVICE.KEY=VALUE` for those of a snapshot.
#pragma once

#include <string>

#include "devices/device_config.h"
#include "vmm/base/error.h"

namespace snapvm::cli {

/// "id=root,path=F[,readonly=on|off]". The path is made absolute: the configuration outlives the folder that this runs in.
Result<DiskConfig> parse_disk(const std::string& text);
Result<VsockConfig> parse_vsock(const std::string& text);
/// "id=eth0,tap=T[,mac=M]"; without a MAC a random one, which the machine and its snapshots keep.
Result<NetConfig> parse_net(const std::string& text);

/// Changes one thing on the host's side of a snapshot's devices: "net.ID.tap=T", "vsock.socket=P", "vsock.cid=N".
Status set_device(DeviceConfig& devices, const std::string& text);

}  // namespace snapvm::cli
