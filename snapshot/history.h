// SPDX-License-Identifier: Apache-2.0
// What a machine's process knows of the snapshots it has made: enough to write only what changed since.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "snapshot/page_table.h"
#include "vmm/machine/config.h"
#include "vmm/memory/dirty_feed.h"

namespace snapvm {

/// A snapshot is named by its id, so it is known again wherever its area was moved or copied to, and forgotten when anybody has written
/// over it. An area with two slots has two of them, each with what that slot has missed. One thread at a time; ends before the machine.
class SnapshotHistory {
public:
    struct Known {
        Uuid snapshot_id;
        PageTable table;  ///< what its area holds
        std::unique_ptr<DirtyFeed::Subscription> missed;  ///< pages written since the instant it holds
    };

    [[nodiscard]] bool knows(const Uuid& id) const { return std::ranges::find(known_, id, &Known::snapshot_id) != known_.end(); }
    /// Hands it over: its slot is about to be written over. Must be known.
    Known take(const Uuid& id) {
        const auto at = std::ranges::find(known_, id, &Known::snapshot_id);
        Known known = std::move(*at);
        known_.erase(at);
        return known;
    }
    void remember(Known known) {
        if (known_.size() == kMost) {
            known_.erase(known_.begin());  // the oldest
        }
        known_.push_back(std::move(known));
    }
    /// Ends the tracking that goes on for it.
    void clear() { known_.clear(); }

private:
    static constexpr std::size_t kMost = 4;  // two areas of two slots; each costs 24 bytes a page with data
    std::vector<Known> known_;
};

}  // namespace snapvm
