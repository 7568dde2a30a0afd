// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/restore_machine.h"

#include <algorithm>

#include "snapshot/restore/restore.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

template <class Device>
Result<Device*> find_device(std::vector<Device>& devices, const std::string& id, const std::string& kind) {
    const auto device = std::ranges::find(devices, id, &Device::id);
    if (device == devices.end()) {
        return fail(ErrorKind::usage, "the machine in the snapshot has no " + kind + " \"" + id + "\"");
    }
    return &*device;
}

Status override_devices(const LoadRequest& request, DeviceConfig& devices) {
    for (const LoadRequest::DiskOverride& disk : request.disks) {
        TRY(find_device(devices.disks, disk.id, "disk"))->path = disk.path;
    }
    for (const LoadRequest::NetworkOverride& network : request.networks) {
        TRY(find_device(devices.nets, network.id, "network interface"))->tap = network.tap;
    }
    if ((request.vsock_socket || request.vsock_cid) && !devices.vsock) {
        return fail(ErrorKind::usage, "the machine in the snapshot has no vsock");
    }
    if (devices.vsock) {
        devices.vsock->socket = request.vsock_socket.value_or(devices.vsock->socket);
        devices.vsock->cid = request.vsock_cid.value_or(devices.vsock->cid);
    }
    return devices.validate();
}

}  // namespace

Result<BuiltMachine> restore_machine(const kvm::System& system, const RestoreRequest& request, const HostSetup& host) {
    RestoredSnapshot snapshot = TRY(open_snapshot(request.area, {.share = request.share}));
    if (request.change_devices) {
        TRY(request.change_devices(snapshot.saved.config.devices));
    }
    BuiltMachine built{TRY(Machine::restore(system, snapshot.saved, std::move(snapshot.memory), host)),
                       snapshot.map_us};
    if (request.share) {
        built.shared = SharedMemory{snapshot.shared_runs, snapshot.shared_pages};
    }
    return built;
}

Result<BuiltMachine> load_machine(const kvm::System& system, const LoadRequest& request, HostSetup host) {
    host.gap = request.gap;
    return restore_machine(
        system,
        {.area = request.area,
         .share = request.share,
         .change_devices = [&](DeviceConfig& devices) { return override_devices(request, devices); }},
        host);
}

}  // namespace snapvm
