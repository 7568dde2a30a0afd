// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/restore_machine.h"

#include <sys/sysinfo.h>

#include "snapshot/restore/restore.h"
#include "vmm/base/try.h"
#include "vmm/control/host_resources.h"

namespace snapvm {
namespace {

std::uint64_t host_memory_bytes() {
    struct sysinfo info{};
    return ::sysinfo(&info) == 0 ? static_cast<std::uint64_t>(info.totalram) * info.mem_unit : 0;
}

}  // namespace

Result<BuiltMachine> restore_machine(const kvm::System& system, const RestoreRequest& request, HostSetup host) {
    RestoredSnapshot snapshot =
        TRY(open_snapshot(request.area, {.max_memory_bytes = request.max_memory_bytes.value_or(host_memory_bytes()),
                                         .share = request.share}));
    DeviceConfig& devices = snapshot.saved.config.devices;
    const std::vector<HostResource> wanted = host_resources(devices);
    TRY(request.devices.apply(devices));
    TRY(check_resources(
        wanted, {.named = request.devices, .all = request.trust_paths},
        {.id = snapshot.snapshot_id, .area = snapshot.area, .slot = snapshot.slot, .path = request.area.path}));
    host.gap = request.gap;
    BuiltMachine built{TRY(Machine::restore(system, snapshot.saved, std::move(snapshot.memory), host)),
                       snapshot.map_us};
    built.lost = std::move(snapshot.lost);
    if (request.share) {
        built.shared = SharedMemory{snapshot.shared_runs, snapshot.shared_pages};
    }
    return built;
}

}  // namespace snapvm
