// SPDX-License-Identifier: Apache-2.0
// A saved machine's state is a list of records. Their owners (vCPUs, devices, the clock) write and
// read them; a snapshot stores them without decoding them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// Kinds of state records. The numbers are on disk and never change. Devices start at 32.
enum class RecordKind : std::uint16_t {
    clock = 1,       ///< kvmclock
    vcpu = 2,        ///< one for each vCPU; instance = vCPU index
    run_state = 3,   ///< the VMM's own data on the run: marks, generation
    serial = 32,
    ioapic = 33,
    reset = 34,
    test_port = 35,
    vmgenid = 36,
    pvpanic = 37,
    ged = 38,  ///< the generic event device: power button
    virtio_blk = 64,  ///< virtio devices have 64 to 95; instance = number among its kind
    virtio_net = 65,
    virtio_vsock = 66,
    virtio_balloon = 67,
    virtio_rng = 68,
    virtio_console = 69,
};
[[nodiscard]] std::string_view name_of(RecordKind kind);

/// One record: its owner, the version of the owner's encoding, and the encoded bytes.
struct StateRecord {
    RecordKind kind{};
    std::uint16_t version = 0;
    std::uint32_t instance = 0;
    std::vector<std::byte> bytes;

    friend bool operator==(const StateRecord&, const StateRecord&) = default;
};

/// Hands records to their owners. `finish` fails if one was not taken, since its device would be
/// lost.
class RecordReader {
public:
    explicit RecordReader(const std::vector<StateRecord>& records) : records_(records), taken_(records.size()) {}

    /// Returns the record of that kind and instance. Fails with invalid if it is missing or occurs
    /// twice, and with unsupported if its version is not `version`. `records` must outlive the
    /// result.
    Result<const StateRecord*> take(RecordKind kind, std::uint32_t instance, std::uint16_t version);
    [[nodiscard]] Status finish() const;

private:
    const std::vector<StateRecord>& records_;
    std::vector<bool> taken_;
};

}  // namespace snapvm
