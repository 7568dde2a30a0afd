// SPDX-License-Identifier: Apache-2.0
// Writes a snapshot of a machine into a destination.
#pragma once

#include "snapshot/area/area_path.h"
#include "snapshot/source/source.h"
#include "snapshot/write/destination.h"
#include "snapshot/write/options.h"
#include "snapshot/write/report.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Writes a whole machine into an area. What can be refused is refused before anything else. After
/// an error, also after a cancel, the machine runs on as before, and the area holds what it held
/// before or says that it is incomplete. One call at a time for each machine.
Result<SnapshotReport> write_snapshot(SnapshotSource& source, const AreaPath& path, const WriteOptions& options);

/// Writes a whole machine into any destination. Ignores the options that concern an area: slots,
/// cache, backend, names, hook.
Result<SnapshotReport> write_snapshot(SnapshotSource& source, Destination& destination, const WriteOptions& options);

}  // namespace snapvm
