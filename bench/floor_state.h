// SPDX-License-Identifier: Apache-2.0
// Makes from a snapshot area what raw_restore reads.
#pragma once

#include <string>

#include "snapshot/area/area_path.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// Writes the state of the snapshot in `area` (one vCPU) to `path`, in the layout of
/// bench/floors/raw_state.h. Does not change which of the area's page data is in the page cache.
Status write_floor_state(const AreaPath& area, const std::string& path);

}  // namespace snapvm::bench
