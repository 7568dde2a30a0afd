// SPDX-License-Identifier: Apache-2.0
// Holds host input while a machine is frozen. A snapshot reads the LAPICs before the devices. Input
// between the two would be saved in the device, but its interrupt in no LAPIC, and the console
// would hang.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace snapvm {

/// One gate for each machine, open at first. Any thread except a vCPU's may call it. Actions run
/// one at a time with the gate's lock held: they may take a device's lock, and they must not use
/// the gate.
class InputGate {
public:
    using Deadline = std::chrono::steady_clock::time_point;
    using Action = std::function<void()>;

    /// The kinds of actions that can wait for the gate without a thread that waits.
    enum class Deferred : std::uint8_t { serial_output, console_size, balloon };

    /// Closes the gate. Returns when no action runs. Later actions wait, or are deferred.
    void close();
    /// Opens the gate. Runs the deferred actions in the order in which they came, then lets waiting
    /// callers in.
    void open();
    /// Ends `feed` for good. No caller waits for the gate any more.
    void end();

    /// Waits until the gate is open, runs `action` and returns true. Returns false without a run if
    /// the deadline passes first, or if end() was called and the gate is closed.
    bool pass(Deadline deadline, const Action& action);
    /// Runs `action` now. If the gate is closed, it runs when the gate opens, in place of an
    /// earlier one of the same kind.
    void pass_or_defer(Deferred kind, Action action);
    /// Passes bytes to `receive`, which returns how many it took, until all are taken, the deadline
    /// passes or end() is called. Waits while the gate is closed or `receive` takes none. Returns
    /// how many were taken. The bytes of two callers may mix.
    std::size_t feed(std::span<const std::uint8_t> bytes, Deadline deadline,
                     const std::function<std::size_t(std::span<const std::uint8_t>)>& receive);

private:
    std::mutex mutex_;  // taken before any device's lock; guards all below
    std::condition_variable changed_;
    bool closed_ = false;
    bool ended_ = false;
    std::vector<std::pair<Deferred, Action>> deferred_;
};

}  // namespace snapvm
