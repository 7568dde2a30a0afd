// SPDX-License-Identifier: Apache-2.0
// What a machine gives to the snapshot layer, and what a machine is built from again.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/config/machine_config.h"
#include "vmm/state/state_record.h"

namespace snapvm {

/// A whole machine except its memory.
struct SavedMachine {
    MachineConfig config;
    std::vector<StateRecord> records;
};

/// The part of a machine whose state is in one record.
struct RecordOwner {
    RecordKind kind{};
    std::uint32_t instance = 0;

    friend auto operator<=>(const RecordOwner&, const RecordOwner&) = default;
};

/// Returns the owners of all records that such a machine has. Each has one, and there are no
/// others.
[[nodiscard]] std::vector<RecordOwner> record_owners(const MachineConfig& config);
/// Fails with invalid if a record is missing, is there twice, or has no owner in the machine.
Status check_records(const MachineConfig& config, std::span<const StateRecord> records);

}  // namespace snapvm
