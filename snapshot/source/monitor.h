// SPDX-License-Identifier: Apache-2.0
// Progress and cancellation of a running snapshot or detach, for other threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace snapvm {

enum class SnapshotPhase : std::uint8_t {
    preparing,  ///< before the first access to the guest
    releasing,  ///< the guest's balloon takes the memory that the guest has free
    copying,    ///< rounds; the guest runs
    quiescing,  ///< waits until the guest's devices have completed their requests; the guest runs
    paused,     ///< the vCPUs stand still
    draining,   ///< what the pause left in memory goes to the disk; the guest runs, unless it is to stay frozen
    done,       ///< ended, with or without success
    detaching,  ///< a restored machine copies the pages of the snapshot that it maps; no snapshot is made
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

/// The thread that makes the snapshot writes the numbers, any thread may read them and call
/// cancel(). Each number is right by itself; two of them may be of different moments.
class SnapshotMonitor {
public:
    /// Asks the snapshot to end early. Has no effect after the commit. The guest runs on; the area
    /// holds what it held before, or says that it is incomplete.
    void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
    [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

    std::atomic<SnapshotPhase> phase = SnapshotPhase::preparing;
    std::atomic<std::uint32_t> round = 0;          ///< number of the running round, from 1
    std::atomic<std::uint64_t> round_pages = 0;    ///< pages that this round looks at
    std::atomic<std::uint64_t> round_done = 0;     ///< pages that this round has looked at so far
    std::atomic<std::uint64_t> written_bytes = 0;  ///< bytes of page data written so far
    std::atomic<std::uint64_t> staged_bytes = 0;   ///< bytes in staging memory

private:
    std::atomic<bool> cancelled_ = false;
};

inline void set_phase(SnapshotMonitor* monitor, SnapshotPhase phase) {
    if (monitor != nullptr) {
        monitor->phase = phase;
    }
}

}  // namespace snapvm
