// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/device_overrides.h"

#include <algorithm>

#include "vmm/base/absolute_path.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

template <class Device>
Result<Device*> find_device(std::vector<Device>& devices, const std::string& id, const std::string& kind) {
    const auto device = std::ranges::find(devices, id, &Device::id);
    if (device == devices.end()) {
        std::string ids;
        for (const Device& one : devices) {
            ids += (ids.empty() ? "its " + kind + "s are " : ", ") + one.id;
        }
        return fail(ErrorKind::usage, "the machine in the snapshot has no " + kind + " " + id, ids);
    }
    return &*device;
}

}  // namespace

Status DeviceOverrides::apply(DeviceConfig& devices) const {
    for (const auto& [id, path] : disks) {
        TRY(find_device(devices.disks, id, "disk"))->path = TRY(absolute_path(path));
    }
    for (const auto& [id, path] : backing) {
        TRY(find_device(devices.disks, id, "disk"))->backing = {TRY(absolute_path(path))};
    }
    for (const auto& [id, tap] : taps) {
        TRY(find_device(devices.nets, id, "network interface"))->tap = tap;
    }
    if ((vsock_socket || vsock_cid) && !devices.vsock) {
        return fail(ErrorKind::usage, "the machine in the snapshot has no vsock");
    }
    if (devices.vsock) {
        devices.vsock->socket = vsock_socket.value_or(devices.vsock->socket);
        devices.vsock->cid = vsock_cid.value_or(devices.vsock->cid);
    }
    return devices.validate();
}

}  // namespace snapvm
