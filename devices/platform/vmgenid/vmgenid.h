// SPDX-License-Identifier: Apache-2.0
// A VM generation ID: 16 bytes in guest memory that change if the machine is restored. They tell
// the guest to reseed its random numbers and to renew what must be unique; without them all clones
// would have the same random state. Source: Microsoft, "Virtual Machine Generation ID", 2012.
//
// The device has a memory block of its own, to which only the VMM writes. The id changes when a
// restored machine first runs, not when it is built: until then its state equals the snapshot.
#pragma once

#include "devices/base/stateful_device.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

struct VmGenIdStateV1 {
    static constexpr RecordKind kKind = RecordKind::vmgenid;
    static constexpr std::uint16_t kVersion = 1;
    std::uint64_t generation = 0;  ///< how often the id was renewed since the machine was first created

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<VmGenIdStateV1> decode(std::span<const std::byte> bytes);
};

class VmGenId final : public StatefulDevice<VmGenIdStateV1> {
public:
    /// `at` is the guest address of the id. `gsi` is pulsed when the id changes.
    VmGenId(const DeviceHost& host, Gpa at, std::uint32_t gsi) : host_(host), at_(at), gsi_(gsi) {}

    /// The device is on no bus: reads return ones, writes are ignored.
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    /// Writes the first id. A restored machine has one in its memory.
    Status power_on() override { return write_new_id(); }
    /// Writes a new id and raises the interrupt.
    Status restored() override;

private:
    Status write_new_id();

    const DeviceHost host_;
    const Gpa at_;
    const std::uint32_t gsi_;
};

}  // namespace snapvm
