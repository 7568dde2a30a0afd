// SPDX-License-Identifier: Apache-2.0
// The port bus and the MMIO bus: address ranges to devices. A device sees offsets, never addresses, so it can sit anywhere.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// What answers on a bus. Called on vCPU threads, several at once: each device has its own lock.
class BusDevice {
public:
    virtual ~BusDevice() = default;
    /// Fills `data` (1, 2, 4 or 8 bytes) from `offset` in the range the device was added with.
    virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
    virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

/// One address space. Built once, before any vCPU runs; immutable and so lock-free afterwards.
class Bus {
public:
    explicit Bus(std::uint64_t address_limit) : limit_(address_limit) {}

    /// Adds [base, base + size); an error when it is empty, beyond the bus, or overlaps another. `device` must outlive the bus.
    Status add(std::uint64_t base, std::uint64_t size, BusDevice& device, std::string name);

    /// A read nobody answers gives all ones, a write nobody takes is lost, as on a PC. An access that begins in a range and ends
    /// beyond it belongs to nobody.
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
