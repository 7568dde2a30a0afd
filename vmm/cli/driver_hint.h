// SPDX-License-Identifier: Apache-2.0
// A guest that finds none of its virtio devices says nothing of it, or something that few understand. So `run` does.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "vmm/machine/machine.h"

namespace snapvm::cli {

/// What is said: one line, without its end.
[[nodiscard]] std::string driver_hint(std::size_t virtio_devices);

/// Says the hint, once at most, of a machine that boots with virtio devices while no driver comes to work with any of them.
class DriverHint {
public:
    /// `say` gets the line, on the thread that calls `wait_ended` or `ended`. The machine outlives this.
    DriverHint(const Machine& machine, std::function<void(const std::string&)> say) : machine_(machine), say_(std::move(say)) {}

    /// Machine::wait_ended; says the hint at `look_at`, where that comes before the deadline and the run's end.
    std::optional<Outcome> wait_ended(std::chrono::steady_clock::time_point look_at,
                                      std::chrono::steady_clock::time_point deadline);
    /// Says it of a run that ended as those of a Linux without its root disk do: by a panic, or the reboot after one.
    void ended(const Outcome& outcome);

private:
    void look();

    const Machine& machine_;
    std::function<void(const std::string&)> say_;
    bool said_ = false;
};

}  // namespace snapvm::cli
