// SPDX-License-Identifier: Apache-2.0
// A snapshot that is being made, or let go of, seen from other threads: how far it is, and a way to call it off.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace snapvm {

enum class SnapshotPhase : std::uint8_t {
    preparing,  ///< nothing of the guest has been touched
    releasing,  ///< the guest's balloon takes what it has free
    copying,    ///< rounds while the guest runs
    quiescing,  ///< the guest's devices end what they have begun, while it runs
    paused,     ///< the vCPUs stand
    draining,   ///< the guest runs again, what was staged goes to the disk
    done,       ///< over, well or not
    detaching,  ///< no snapshot is made: a restored machine lets go of the one that it maps
};
[[nodiscard]] constexpr std::string_view name_of(SnapshotPhase phase) {
    switch (phase) {
        case SnapshotPhase::preparing: return "preparing";
        case SnapshotPhase::releasing: return "releasing";
        case SnapshotPhase::copying: return "copying";
        case SnapshotPhase::quiescing: return "quiescing";
        case SnapshotPhase::paused: return "paused";
        case SnapshotPhase::draining: return "draining";
        case SnapshotPhase::done: return "done";
        case SnapshotPhase::detaching: return "detaching";
    }
    return "done";
}

/// Written by the thread that makes the snapshot, read by any; `cancel` from any. Each number is right by itself.
class SnapshotMonitor {
public:
    /// Asks for an end. Heeded until the commit; the guest is unharmed, the area holds what it held before or says incomplete.
    void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
    [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

    std::atomic<SnapshotPhase> phase = SnapshotPhase::preparing;
    std::atomic<std::uint32_t> round = 0;          ///< from 1
    std::atomic<std::uint64_t> round_pages = 0;    ///< to look at in this round
    std::atomic<std::uint64_t> round_done = 0;     ///< of them
    std::atomic<std::uint64_t> written_bytes = 0;  ///< of page data, so far
    std::atomic<std::uint64_t> staged_bytes = 0;

private:
    std::atomic<bool> cancelled_ = false;
};

inline void set_phase(SnapshotMonitor* monitor, SnapshotPhase phase) {
    if (monitor != nullptr) {
        monitor->phase = phase;
    }
}

}  // namespace snapvm
