// SPDX-License-Identifier: Apache-2.0
// A machine's state at rest is a list of records, each written and read by its owner (vCPU, device, clock). Snapshots carry the
// records without knowing what is inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// Kinds of state records. The numbers are on disk: never renumber. Devices start at 32.
enum class RecordKind : std::uint16_t {
    clock = 1,       ///< kvmclock
    vcpu = 2,        ///< one a vCPU; instance = vCPU index
    run_state = 3,   ///< what the VMM itself keeps of the run: marks, generation
    serial = 32,
    ioapic = 33,
    reset = 34,
    test_port = 35,
    vmgenid = 36,
    pvpanic = 37,
    ged = 38,  ///< generic event device: power button
    virtio_blk = 64,  ///< virtio devices have 64 to 95; instance = which of its kind
    virtio_net = 65,
    virtio_vsock = 66,
    virtio_balloon = 67,
    virtio_rng = 68,
    virtio_console = 69,
};
[[nodiscard]] std::string_view name_of(RecordKind kind);

/// One record: who wrote it, in which version of that owner's encoding, and the encoded bytes.
struct StateRecord {
    RecordKind kind{};
    std::uint16_t version = 0;
    std::uint32_t instance = 0;
    std::vector<std::byte> bytes;

    friend bool operator==(const StateRecord&, const StateRecord&) = default;
};

/// Hands out records to their owners and checks, at the end, that all were taken: a record nobody reads is a lost device.
class RecordReader {
public:
    explicit RecordReader(const std::vector<StateRecord>& records) : records_(records), taken_(records.size()) {}

    /// The record of that kind and instance, which must have `version` exactly; an error when it is missing or comes twice.
    Result<const StateRecord*> take(RecordKind kind, std::uint32_t instance, std::uint16_t version);
    [[nodiscard]] Status finish() const;

private:
    const std::vector<StateRecord>& records_;
    std::vector<bool> taken_;
};

}  // namespace snapvm
