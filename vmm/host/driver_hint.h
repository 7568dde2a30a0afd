// SPDX-License-Identifier: Apache-2.0
// Detects a guest that finds none of its virtio devices. Such a guest reports nothing, or something
// hard to interpret, so `run` prints a hint.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "vmm/machine/outcome.h"

namespace snapvm {

/// Returns the hint: one line, without its end.
[[nodiscard]] std::string driver_hint(std::size_t virtio_devices);

/// Prints the hint at most once, for a machine that boots with virtio devices of which no driver
/// starts any. Tests use a machine of their own as AnyMachine.
template <class AnyMachine>
class DriverHint {
public:
    using Clock = std::chrono::steady_clock;

    /// `say` gets the line, on the thread that calls `wait_ended` or `ended`. `machine` must
    /// outlive the object.
    DriverHint(const AnyMachine& machine, std::function<void(const std::string&)> say)
        : machine_(machine), say_(std::move(say)) {}

    /// Calls Machine::wait_ended. Prints the hint when the guest has run for `patience` over all
    /// calls, if that is before the deadline and the run has not ended. Looks at the machine's
    /// state once a second, and does not count the time of a pause.
    std::optional<Outcome> wait_ended(Clock::duration patience, Clock::time_point deadline) {
        while (ran_ < patience && misses_driver()) {
            const bool counts = runs();
            const Clock::time_point begin = Clock::now();
            constexpr Clock::duration kLook = std::chrono::seconds(1);
            const Clock::time_point slice =
                std::min(deadline, begin + (counts ? std::min(patience - ran_, kLook) : kLook));
            const std::optional<Outcome> outcome = machine_.wait_ended(slice);
            if (counts && runs()) {
                ran_ += Clock::now() - begin;
            }
            if (outcome || slice == deadline) {
                return outcome;
            }
        }
        look();
        return machine_.wait_ended(deadline);
    }
    /// Prints the hint if the run ended by a panic, or by the reboot after one, as with a Linux
    /// that finds no root disk.
    void ended(const Outcome& outcome) {
        if (outcome.kind == Outcome::Kind::reboot || outcome.kind == Outcome::Kind::guest_panic) {
            look();
        }
    }

private:
    [[nodiscard]] bool runs() const { return machine_.state() == AnyMachine::State::running; }
    [[nodiscard]] bool misses_driver() const {
        return !said_ && machine_.config().devices.virtio_devices() > 0 && !machine_.had_driver();
    }
    void look() {
        if (misses_driver()) {
            said_ = true;
            say_(driver_hint(machine_.config().devices.virtio_devices()));
        }
    }

    const AnyMachine& machine_;
    std::function<void(const std::string&)> say_;
    Clock::duration ran_{};  ///< the time that counts so far
    bool said_ = false;
};

}  // namespace snapvm
