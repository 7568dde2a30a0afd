// SPDX-License-Identifier: Apache-2.0
// A VM generation ID: 16 bytes in memory that change when the machine is restored, so that a guest knows to reseed and to renew what
// must be unique (traps.md: clones share random state). Source: Microsoft, "Virtual Machine Generation ID", 2012.
//
// The device owns a block of memory that only the VMM writes. The id changes when a restored machine first runs, not when it is
// built: until then it is the snapshot's machine, to the bit.
#pragma once

#include <memory>

#include "devices/device.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

struct VmGenIdStateV1 {
    static constexpr std::uint16_t kVersion = 1;
    std::uint64_t generation = 0;  ///< how often the id was renewed since the machine was first built

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<VmGenIdStateV1> decode(std::span<const std::byte> bytes);
};

class VmGenId final : public Device {
public:
    /// `at` is where in guest memory the id is kept; `gsi` is pulsed when it changes.
    VmGenId(const DeviceHost& host, Gpa at, std::uint32_t gsi) : host_(host), at_(at), gsi_(gsi) {}
    /// A new device with a first random id.
    static Result<std::unique_ptr<VmGenId>> create(const DeviceHost& host, Gpa at, std::uint32_t gsi);
    static Result<std::unique_ptr<VmGenId>> restore(const DeviceHost& host, Gpa at, std::uint32_t gsi, const StateRecord& record);

    /// The device is memory only; nothing of it is on a bus.
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;
    /// Writes a new id and raises the interrupt.
    Status restored() override;

private:
    Status write_new_id();

    const DeviceHost host_;
    const Gpa at_;
    const std::uint32_t gsi_;
    std::uint64_t generation_ = 0;
};

}  // namespace snapvm
