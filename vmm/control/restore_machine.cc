// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/restore_machine.h"

#include "snapshot/restore/restore.h"
#include "vmm/base/try.h"

namespace snapvm {

Result<BuiltMachine> restore_machine(const kvm::System& system, const RestoreRequest& request, HostSetup host) {
    RestoredSnapshot snapshot = TRY(open_snapshot(request.area, {.share = request.share}));
    TRY(request.devices.apply(snapshot.saved.config.devices));
    host.gap = request.gap;
    BuiltMachine built{TRY(Machine::restore(system, snapshot.saved, std::move(snapshot.memory), host)),
                       snapshot.map_us};
    if (request.share) {
        built.shared = SharedMemory{snapshot.shared_runs, snapshot.shared_pages};
    }
    return built;
}

}  // namespace snapvm
