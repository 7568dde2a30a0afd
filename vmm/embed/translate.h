// SPDX-License-Identifier: Apache-2.0
// Translates between the public types (vmm/include/snapvm) and those of the inside.
#pragma once

#include <snapvm/machine.h>
#include <snapvm/snapshot.h>

#include "vmm/control/service.h"

namespace snapvm::embed {

/// Returns the configuration, with absolute paths of disks, an identity and random MAC addresses
/// where none is given. Fails like snapvm::MachineConfig::validate.
Result<snapvm::MachineConfig> to_internal(const MachineConfig& config);
Result<AreaPath> to_internal(const Area& area);
Result<SnapshotRequest> to_internal(const Area& area, const SnapshotOptions& options);
Result<RestoreRequest> to_internal(const Area& area, const RestoreOptions& options);

[[nodiscard]] State to_public(ServiceState state);
[[nodiscard]] Outcome to_public(const snapvm::Outcome& outcome);
[[nodiscard]] SnapshotReport to_public(const snapvm::SnapshotReport& report);
[[nodiscard]] Statistics to_public(const ServiceStats& stats);

}  // namespace snapvm::embed
