// SPDX-License-Identifier: Apache-2.0
// Records of this user's snapshots: what the devices of each used of this host. They are kept
// outside the areas, in `snapvm/snapshots` under $XDG_STATE_HOME or ~/.local/state, and tell which
// paths in a snapshot are the user's own (DECISIONS.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "snapshot/area/area_identity.h"
#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"

namespace snapvm {

/// Something of the host's that a device uses.
struct HostResource {
    /// The numbers are on disk. An image is a disk of a format with a header, which names further
    /// files; so a record of a raw disk does not stand for one.
    enum class Kind : std::uint8_t { disk = 0, tap = 1, vsock = 2, image = 3 };
    Kind kind{};
    std::string id;     ///< the device's; empty for the vsock
    std::string place;  ///< the path of a disk or a socket, or the name of a tap
    bool read_only = false;
    friend bool operator==(const HostResource&, const HostResource&) = default;
};

/// A snapshot by its id, and the file and the slot that it is in.
struct SnapshotPlace {
    Uuid id;
    AreaIdentity area;
    std::uint32_t slot = 0;
    std::string path;  ///< of the file; tells later whether it is still there
};

/// Writes a record, in place of the one of an older snapshot in the same slot. Makes the folder if
/// it is missing. If there are many records, removes those whose area is not at its path any more.
/// Fails if the folder or the file cannot be made, or belongs to somebody else.
Status record_snapshot(const SnapshotPlace& place, std::span<const HostResource> resources);

/// Returns the resources in the record of this very snapshot. Fails with not_found if there is
/// none. Fails otherwise if there is one that cannot be read, or that others could have written.
/// Both functions read the environment, and open what they need through the process's opener.
Result<std::vector<HostResource>> recorded_resources(const SnapshotPlace& place);

}  // namespace snapvm
