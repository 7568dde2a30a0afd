// SPDX-License-Identifier: Apache-2.0
// How a run ended, and with which exit code the process says so (design.md, "Command line").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "vmm/base/error.h"

namespace snapvm {

struct CrashReport;

struct Outcome {
    enum class Kind : std::uint8_t {
        power_off,
        reboot,
        guest_exit,    ///< by the test or the exit port, `code`
        triple_fault,
        guest_panic,   ///< told by the guest through pvpanic
        failed,        ///< KVM or we could not go on, `error`
        stopped,       ///< asked to from outside
        timed_out,
    };
    Kind kind = Kind::stopped;
    std::uint8_t code = 0;
    std::optional<Error> error;
    std::shared_ptr<const CrashReport> crash = {};  ///< of a vCPU that cannot go on (triple_fault, failed)

    /// 0 power-off, reboot, stopped or the guest's exit 0; 1 ours; 3 guest panic; 4 triple fault; 124 timeout; else the guest's own.
    [[nodiscard]] int exit_code() const;
    /// One word: "power-off", "reboot", "exit", "triple-fault", "panic", "failed", "stopped", "timeout".
    [[nodiscard]] std::string_view name() const;
};

}  // namespace snapvm
