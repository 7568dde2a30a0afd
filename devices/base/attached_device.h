// SPDX-License-Identifier: Apache-2.0
// A device with the bus ranges and eventfds through which a guest reaches it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "devices/base/device.h"

namespace snapvm {

/// A range of a bus that a device answers.
struct BusRange {
    enum class Kind : std::uint8_t { port, mmio };
    Kind kind = Kind::port;
    std::uint64_t base = 0;
    std::uint64_t size = 0;
    BusDevice* device = nullptr;
};

/// A write to this MMIO address may signal the eventfd instead of reaching the bus. KVM does that
/// without an exit to the VMM.
struct IoEventFd {
    std::uint64_t address = 0;
    std::uint32_t size = 0;  ///< of the write, in bytes
    int eventfd = -1;  ///< owned by the device
};

/// A device as the machine owns it.
struct AttachedDevice {
    std::unique_ptr<Device> device;
    std::vector<BusRange> ranges;
    std::vector<IoEventFd> ioeventfds;
};

}  // namespace snapvm
