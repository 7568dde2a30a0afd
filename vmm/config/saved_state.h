// SPDX-License-Identifier: Apache-2.0
// What a machine gives to the snapshot layer, and what a machine is built from again.
#pragma once

#include <vector>

#include "vmm/config/machine_config.h"
#include "vmm/state/state_record.h"

namespace snapvm {

/// A whole machine except its memory.
struct SavedMachine {
    MachineConfig config;
    std::vector<StateRecord> records;
};

}  // namespace snapvm
