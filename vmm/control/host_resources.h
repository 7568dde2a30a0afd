// SPDX-License-Identifier: Apache-2.0
// What the devices of a machine use of this host, and which of that a restore may take from a
// snapshot: a snapshot is untrusted, and so are the paths in it (DECISIONS.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"
#include "vmm/control/device_overrides.h"
#include "vmm/control/snapshot_records.h"

namespace snapvm {

/// Returns what the devices of a machine use, in their order.
[[nodiscard]] std::vector<HostResource> host_resources(const DeviceConfig& devices);

/// Returns the key of `--set` that names the resource: "disk.root.path".
[[nodiscard]] std::string setting_of(const HostResource& resource);

/// Whose word a restore takes for a resource beside the user's own record.
struct ResourceTrust {
    const DeviceOverrides& named;  ///< what the caller names
    bool all = false;              ///< whatever the snapshot names
};

/// Fails with usage unless the restore may use all that the snapshot in `place` names: the caller
/// names another or the same place for it, this user's record of that very snapshot has it, or all
/// is trusted. The error lists what is wanted, with the words for `--set`. Fails with invalid if
/// the snapshot calls a disk writable that was read-only when it was taken. Opens the record, and
/// nothing that the snapshot names.
Status check_resources(std::span<const HostResource> wanted, const ResourceTrust& trust, const SnapshotPlace& place);

}  // namespace snapvm
