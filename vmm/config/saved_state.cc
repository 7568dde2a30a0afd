// SPDX-License-Identifier: Apache-2.0
#include "vmm/config/saved_state.h"

#include <algorithm>
#include <string>

namespace snapvm {

std::vector<RecordOwner> record_owners(const MachineConfig& config) {
    std::vector<RecordOwner> owners;
    const auto add = [&](RecordKind kind, std::size_t count) {
        for (std::uint32_t instance = 0; instance < count; ++instance) {
            owners.push_back({kind, instance});
        }
    };
    add(RecordKind::clock, 1);
    add(RecordKind::vcpu, config.cpus);
    for (const RecordKind kind : {RecordKind::serial, RecordKind::ioapic, RecordKind::reset, RecordKind::test_port,
                                  RecordKind::vmgenid, RecordKind::pvpanic, RecordKind::ged}) {
        add(kind, 1);
    }
    const DeviceConfig& devices = config.devices;
    add(RecordKind::virtio_blk, devices.disks.size());
    add(RecordKind::virtio_net, devices.nets.size());
    add(RecordKind::virtio_vsock, devices.vsock ? 1 : 0);
    add(RecordKind::virtio_balloon, devices.balloon ? 1 : 0);
    add(RecordKind::virtio_rng, devices.rng ? 1 : 0);
    add(RecordKind::virtio_console, devices.console ? 1 : 0);
    return owners;
}

Status check_records(const MachineConfig& config, std::span<const StateRecord> records) {
    std::vector<RecordOwner> wanted = record_owners(config);
    std::vector<RecordOwner> found;
    found.reserve(records.size());
    for (const StateRecord& record : records) {
        found.push_back({record.kind, record.instance});
    }
    std::ranges::sort(wanted);
    std::ranges::sort(found);
    const auto [missing, odd] = std::ranges::mismatch(wanted, found);
    const bool is_missing = missing != wanted.end() && (odd == found.end() || *missing < *odd);
    if (!is_missing && odd == found.end()) {
        return {};
    }
    const RecordOwner owner = is_missing ? *missing : *odd;
    const bool twice = !is_missing && odd != found.begin() && *(odd - 1) == owner;
    return fail(ErrorKind::invalid, "state record " + std::string(name_of(owner.kind)) + " " +
                                        std::to_string(owner.instance) +
                                        (is_missing ? " is missing"
                                         : twice    ? " is there twice"
                                                    : " belongs to no part of this machine"));
}

}  // namespace snapvm
