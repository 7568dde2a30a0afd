// SPDX-License-Identifier: Apache-2.0
// What a machine is, without its state. It is enough to build a machine, to lay out a snapshot area
// for it, and to compare two machines.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// 16 random bytes; printed as a UUID.
struct Uuid {
    std::array<std::uint8_t, 16> bytes{};
    friend bool operator==(const Uuid&, const Uuid&) = default;

    /// Makes a version 4 UUID with getrandom(2).
    static Result<Uuid> random();
    [[nodiscard]] std::string text() const;
};

/// How the kernel is entered (`--boot`).
enum class BootProtocol : std::uint8_t { automatic = 0, pvh = 1, linux64 = 2 };

/// The configuration of a machine. Every snapshot stores it (machine start section), so a restore
/// needs no other source.
struct MachineConfig {
    std::uint64_t memory_bytes = 256ULL << 20;
    std::uint32_t cpus = 1;
    PagePolicy pages = PagePolicy::automatic;
    BootProtocol boot = BootProtocol::automatic;
    std::string kernel;   ///< path, or "builtin:ledger"; in a snapshot it only records the origin
    std::vector<std::string> initrds;
    std::string cmdline;
    DeviceConfig devices;
    Uuid machine_id;      ///< random, chosen at creation; snapshots and restores keep it

    friend bool operator==(const MachineConfig&, const MachineConfig&) = default;

    /// Checks the limits: memory is a multiple of 2 MiB within the limits of platform.h, there are
    /// 1 to 64 vCPUs, and texts and devices fit. Fails with usage; the error says what is wrong and
    /// what is allowed.
    [[nodiscard]] Status validate() const;
    /// Returns the blocks of such a machine in block-list order: RAM below the hole, RAM above it,
    /// firmware tables, device memory.
    [[nodiscard]] std::vector<BlockSpec> blocks() const;

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<MachineConfig> decode(std::span<const std::byte> bytes);
};

}  // namespace snapvm
