// SPDX-License-Identifier: Apache-2.0
// What a new machine's process reports to the process that started it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/control/restore_machine.h"

namespace snapvm {

/// Times count from the start of the command.
struct StartReport {
    std::string name;
    int pid = 0;
    std::string api_socket;
    std::uint64_t map_us = 0;        ///< restore: until memory is mapped
    std::uint64_t state_us = 0;      ///< until the machine is complete; without one, until the process is
    std::uint64_t first_run_us = 0;  ///< from there until the guest has executed an instruction
    std::uint64_t total_us = 0;      ///< from the start until then

    std::optional<SharedMemory> shared;  ///< restore --share
    /// Of a restore that runs: "set", or "host" if KVM cannot set the TSC and only kvmclock follows
    /// --clock.
    std::string tsc;

    /// Returns one line of JSON, without its end.
    [[nodiscard]] std::string json() const;
    /// Reads what json() has made. A field that is missing has its default.
    static StartReport parse(std::string_view line);
};

}  // namespace snapvm
