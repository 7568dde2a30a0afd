// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/restore_machine.h"

#include "snapshot/restore/restore.h"
#include "vmm/base/try.h"
#include "vmm/control/host_resources.h"

namespace snapvm {

Result<BuiltMachine> restore_machine(const kvm::System& system, const RestoreRequest& request, HostSetup host) {
    RestoredSnapshot snapshot = TRY(open_snapshot(request.area, {.share = request.share}));
    DeviceConfig& devices = snapshot.saved.config.devices;
    const std::vector<HostResource> wanted = host_resources(devices);
    TRY(request.devices.apply(devices));
    TRY(check_resources(
        wanted, {.named = request.devices, .all = request.trust_paths},
        {.id = snapshot.snapshot_id, .area = snapshot.area, .slot = snapshot.slot, .path = request.area.path}));
    host.gap = request.gap;
    BuiltMachine built{TRY(Machine::restore(system, snapshot.saved, std::move(snapshot.memory), host)),
                       snapshot.map_us};
    if (request.share) {
        built.shared = SharedMemory{snapshot.shared_runs, snapshot.shared_pages};
    }
    return built;
}

}  // namespace snapvm
