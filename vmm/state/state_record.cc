// SPDX-License-Identifier: Apache-2.0
#include "vmm/state/state_record.h"

#include <string>

namespace snapvm {
namespace {

std::string describe(RecordKind kind, std::uint32_t instance) {
    return "state record " + std::string(name_of(kind)) + " " + std::to_string(instance);
}

}  // namespace

std::string_view name_of(RecordKind kind) {
    switch (kind) {
        case RecordKind::clock: return "clock";
        case RecordKind::vcpu: return "vcpu";
        case RecordKind::run_state: return "run-state";
        case RecordKind::serial: return "serial";
        case RecordKind::ioapic: return "ioapic";
        case RecordKind::reset: return "reset";
        case RecordKind::test_port: return "test-port";
        case RecordKind::vmgenid: return "vmgenid";
        case RecordKind::pvpanic: return "pvpanic";
        case RecordKind::ged: return "ged";
        case RecordKind::virtio_blk: return "virtio-blk";
        case RecordKind::virtio_net: return "virtio-net";
        case RecordKind::virtio_vsock: return "virtio-vsock";
        case RecordKind::virtio_balloon: return "virtio-balloon";
        case RecordKind::virtio_rng: return "virtio-rng";
        case RecordKind::virtio_console: return "virtio-console";
    }
    return "unknown";
}

Result<const StateRecord*> RecordReader::take(RecordKind kind, std::uint32_t instance, std::uint16_t version) {
    const StateRecord* found = nullptr;
    for (std::size_t i = 0; i < records_.size(); ++i) {
        if (records_[i].kind != kind || records_[i].instance != instance) {
            continue;
        }
        if (found != nullptr || taken_[i]) {
            return fail(ErrorKind::invalid, describe(kind, instance) + " is there twice");
        }
        found = &records_[i];
        taken_[i] = true;
    }
    if (found == nullptr) {
        return fail(ErrorKind::invalid, describe(kind, instance) + " is missing");
    }
    if (found->version != version) {
        return fail(ErrorKind::unsupported,
                    describe(kind, instance) + " has version " + std::to_string(found->version) +
                        ", and this program reads version " + std::to_string(version),
                    "use the version of snapvm that wrote it");
    }
    return found;
}

Status RecordReader::finish() const {
    for (std::size_t i = 0; i < records_.size(); ++i) {
        if (!taken_[i]) {
            return fail(ErrorKind::invalid,
                        describe(records_[i].kind, records_[i].instance) + " belongs to no part of this machine");
        }
    }
    return {};
}

}  // namespace snapvm
