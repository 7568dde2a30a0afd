// SPDX-License-Identifier: Apache-2.0
// What a machine hands to the snapshot layer, and what it can be built from again.
#pragma once

#include <vector>

#include "vmm/base/state_record.h"
#include "vmm/machine/config.h"

namespace snapvm {

/// Everything of a machine but its memory.
struct SavedMachine {
    MachineConfig config;
    std::vector<StateRecord> records;
};

}  // namespace snapvm
