// SPDX-License-Identifier: Apache-2.0
// Builds the machine in a snapshot, for `snapvm restore` and for PUT /snapshot/load.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "devices/config/device_config.h"
#include "snapshot/area/area_path.h"
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
};

struct RestoreRequest {
    AreaPath area;
    bool share = false;  ///< RestoreOptions::share
    /// Changes the host's side of the saved devices, if given. Its error ends the restore.
    std::function<Status(DeviceConfig&)> change_devices = {};
};

/// Builds the machine in the area's snapshot. Fails like open_snapshot and Machine::restore.
/// `system` must outlive the machine.
Result<BuiltMachine> restore_machine(const kvm::System& system, const RestoreRequest& request, const HostSetup& host);

/// Does the same for the API and for embedders. HostSetup::gap is the request's.
Result<BuiltMachine> load_machine(const kvm::System& system, const LoadRequest& request, HostSetup host);

}  // namespace snapvm
