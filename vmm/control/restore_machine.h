// SPDX-License-Identifier: Apache-2.0
// Builds the machine in a snapshot, for `snapvm restore`, PUT /snapshot/load and embedders.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "vmm/base/error.h"
#include "vmm/control/service.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/machine.h"

namespace snapvm {

/// The result of RestoreRequest::share.
struct SharedMemory {
    std::uint64_t runs = 0;
    std::uint64_t pages = 0;
};

/// A machine that has not run yet, as its builder returns it.
struct BuiltMachine {
    std::unique_ptr<Machine> machine;
    std::uint64_t map_us = 0;  ///< the time to map the memory of a snapshot
    std::optional<SharedMemory> shared = {};
    std::string lost = {};  ///< RestoredSnapshot::lost
};

/// Builds the machine in the area's snapshot. Fails like open_snapshot, check_resources,
/// DeviceOverrides::apply and Machine::restore. HostSetup::gap is the request's. `system` must
/// outlive the machine.
Result<BuiltMachine> restore_machine(const kvm::System& system, const RestoreRequest& request, HostSetup host);

}  // namespace snapvm
