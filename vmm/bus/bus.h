// SPDX-License-Identifier: Apache-2.0
// The port bus and the MMIO bus, which map address ranges to devices. A device sees offsets, never
// addresses, so it works at any address.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// A device on a bus. Several vCPU threads may call it at once, so each device has its own lock.
class BusDevice {
public:
    virtual ~BusDevice() = default;
    /// Fills `data` (1, 2, 4 or 8 bytes) from `offset` in the range that the device was added with.
    virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
    virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

/// One address space. It is built before any vCPU runs and never changes afterwards, so it needs no
/// lock.
class Bus {
public:
    explicit Bus(std::uint64_t address_limit) : limit_(address_limit) {}

    /// Adds [base, base + size). Fails with invalid if the range is empty, beyond the bus, or
    /// overlaps another. `device` must outlive the bus.
    Status add(std::uint64_t base, std::uint64_t size, BusDevice& device, std::string name);

    /// Passes an access to the device of its range. Without one, a read gives all ones and a write
    /// is lost, as on a PC. The same holds for an access that begins in a range and ends beyond it.
    void read(std::uint64_t address, std::span<std::byte> data) const;
    void write(std::uint64_t address, std::span<const std::byte> data) const;

private:
    struct Range {
        std::uint64_t base;
        std::uint64_t size;
        BusDevice* device;
        std::string name;
    };
    [[nodiscard]] const Range* find(std::uint64_t address, std::size_t size) const;

    std::uint64_t limit_;
    std::vector<Range> ranges_;  // sorted by base
};

inline constexpr std::uint64_t kPortLimit = 0x10000;

}  // namespace snapvm
