// SPDX-License-Identifier: Apache-2.0
// Makes areas that no machine has written, with whatever configuration.
#pragma once

#include <functional>

#include "snapshot/area/area_path.h"
#include "vmm/config/machine_config.h"
#include "vmm/config/saved_state.h"

namespace snapvm::test {

/// Writes a complete snapshot of a machine whose memory is absent. Its page entries are those of a
/// new area. Writes in place if there is an area of that shape already.
void forge_area(const AreaPath& to, const SavedMachine& machine, const Uuid& snapshot_id);

/// Writes a snapshot like the one in `from`, with the same id and another configuration.
void forge_area(const AreaPath& from, const AreaPath& to, const std::function<void(MachineConfig&)>& change);

}  // namespace snapvm::test
