// SPDX-License-Identifier: Apache-2.0
// How a run ended, and the exit code of the process for it.
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
        guest_exit,    ///< through the test port or the exit port; `code` is the guest's
        triple_fault,
        guest_panic,   ///< reported by the guest through pvpanic
        failed,        ///< KVM or the VMM could not go on; `error` says why
        stopped,       ///< ended from outside
        timed_out,
    };
    Kind kind = Kind::stopped;
    std::uint8_t code = 0;
    std::optional<Error> error;
    std::shared_ptr<const CrashReport> crash = {};  ///< of the vCPU that could not go on (triple_fault, failed)

    /// Returns 0 for power-off, reboot, stopped or the guest's exit 0; 1 for a failure of KVM or
    /// the VMM; 3 for a guest panic; 4 for a triple fault; 124 for a timeout; else the guest's own
    /// code.
    [[nodiscard]] int exit_code() const;
    /// Returns one word: "power-off", "reboot", "exit", "triple-fault", "panic", "failed",
    /// "stopped", "timeout".
    [[nodiscard]] std::string_view name() const;
};

}  // namespace snapvm
