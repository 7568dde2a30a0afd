// SPDX-License-Identifier: Apache-2.0
// From a snapshot area to what raw_restore reads.
#pragma once

#include <string>

#include "snapshot/area_path.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// Writes the state of the snapshot in `area` (one vCPU) to `path`, as bench/floors/raw_state.h has it. The page cache of the area's
/// page data is left as it is.
Status write_floor_state(const AreaPath& area, const std::string& path);

}  // namespace snapvm::bench
