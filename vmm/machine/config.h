// SPDX-License-Identifier: Apache-2.0
// What a machine is, apart from its state: enough to build one, to lay out a snapshot area for it, and to compare two.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/device_config.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// 16 random bytes; printed as a UUID.
struct Uuid {
    std::array<std::uint8_t, 16> bytes{};
    friend bool operator==(const Uuid&, const Uuid&) = default;

    /// From getrandom(2), version 4.
    static Result<Uuid> random();
    [[nodiscard]] std::string text() const;
};

/// `--boot`.
enum class BootProtocol : std::uint8_t { automatic = 0, pvh = 1, linux64 = 2 };

/// The configuration of a machine. It is stored in every snapshot (machine start section), so a restore needs no other source.
struct MachineConfig {
    std::uint64_t memory_bytes = 256ULL << 20;
    std::uint32_t cpus = 1;
    PagePolicy pages = PagePolicy::automatic;
    BootProtocol boot = BootProtocol::automatic;
    std::string kernel;   ///< path, or "builtin:ledger"; in a snapshot only a note of where it came from
    std::vector<std::string> initrds;
    std::string cmdline;
    DeviceConfig devices;
    Uuid machine_id;      ///< chosen at creation, kept by snapshots and restores

    friend bool operator==(const MachineConfig&, const MachineConfig&) = default;

    /// Memory a whole number of 2 MiB pages within the limits of platform.h, 1 to 64 vCPUs; says what is wrong and what is allowed.
    [[nodiscard]] Status validate() const;
    /// The blocks such a machine has, in block-list order: RAM below the hole, RAM above, firmware tables, device memory.
    [[nodiscard]] std::vector<BlockSpec> blocks() const;

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<MachineConfig> decode(std::span<const std::byte> bytes);
};

}  // namespace snapvm
