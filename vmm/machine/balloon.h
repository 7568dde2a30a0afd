// SPDX-License-Identifier: Apache-2.0
// The host's controls of a machine's balloon.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "devices/virtio/balloon/balloon.h"
#include "vmm/base/error.h"
#include "vmm/machine/device_set.h"
#include "vmm/machine/input_gate.h"
#include "vmm/memory/dirty_set.h"

namespace snapvm {

/// A balloon's size, as the host asked for it and as the guest reports it.
struct BalloonStatus {
    std::uint64_t target_bytes = 0;
    std::uint64_t actual_bytes = 0;     ///< the guest reports that it holds this much
    std::uint16_t polling_seconds = 0;  ///< seconds between two requests for statistics; 0: on demand
};

/// The balloon of one machine. Functions with a result fail with usage if the machine has none;
/// release_free() returns 0. set_target, set_polling, statistics, add_free_pages and release_free
/// wait while the machine is frozen. Any thread except a vCPU's may call them.
class MachineBalloon {
public:
    MachineBalloon(VirtioHandle<virtio::Balloon> balloon, InputGate& gate, std::uint64_t memory_bytes)
        : balloon_(balloon), gate_(gate), memory_bytes_(memory_bytes) {}

    [[nodiscard]] Result<BalloonStatus> status() const;
    Status set_target(std::uint64_t bytes);
    Status set_polling(std::uint16_t seconds);
    /// Returns the guest's last statistics if it is polled. Otherwise asks the guest, waits until
    /// it answers or the deadline passes, and returns the newest statistics.
    Result<virtio::BalloonStatistics> statistics(std::chrono::steady_clock::time_point deadline);

    /// Returns whether there is a balloon whose driver supports free page hints.
    [[nodiscard]] bool can_hint() const;
    /// Adds the pages that such a guest reports as free. Waits at most 100 ms for the guest to
    /// begin, and at most a second until it ends.
    void add_free_pages(DirtySet& into);
    /// For a snapshot: makes the guest put its free memory into the balloon, at most `max_bytes`
    /// (virtio::release_free). Returns how many bytes that were, 0 if there is no balloon. Saved
    /// states keep the target from before.
    Result<std::uint64_t> release_free(std::uint64_t max_bytes, const std::function<Status()>& check_cancelled);
    /// Returns that memory to the guest. If the machine is frozen, the thaw does it. May be called
    /// again.
    void give_back();

private:
    [[nodiscard]] Status exists() const;
    template <class What>
    Status pass(What what);

    VirtioHandle<virtio::Balloon> balloon_;
    InputGate& gate_;
    std::uint64_t memory_bytes_;
};

}  // namespace snapvm
