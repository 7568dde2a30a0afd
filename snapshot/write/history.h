// SPDX-License-Identifier: Apache-2.0
// What the process remembers of a machine's tracked snapshots, so that the next one into the same
// place writes only what has changed.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "snapshot/write/page_table.h"
#include "vmm/config/machine_config.h"
#include "vmm/memory/dirty_feed.h"

namespace snapvm {

/// Snapshots are known by their id: an area that was moved or copied is recognized, and one that
/// was written over is not. An area with two slots has two entries, each with what its slot has
/// missed. Must be destroyed before the machine. One thread at a time.
class SnapshotHistory {
public:
    struct Known {
        Uuid snapshot_id;
        PageTable table;  ///< the pages that its area holds
        std::unique_ptr<DirtyFeed::Subscription> missed;  ///< pages written since its instant
    };

    [[nodiscard]] bool knows(const Uuid& id) const {
        return std::ranges::find(known_, id, &Known::snapshot_id) != known_.end();
    }
    /// Removes the entry and returns it, before its slot is written over. The id must be known.
    Known take(const Uuid& id) {
        const auto at = std::ranges::find(known_, id, &Known::snapshot_id);
        Known known = std::move(*at);
        known_.erase(at);
        return known;
    }
    /// Adds an entry. Drops the oldest one if there are kMost.
    void remember(Known known) {
        if (known_.size() == kMost) {
            known_.erase(known_.begin());  // the oldest
        }
        known_.push_back(std::move(known));
    }
    /// Forgets everything, which ends the tracking.
    void clear() { known_.clear(); }

private:
    static constexpr std::size_t kMost = 4;  // two areas of two slots; each costs 24 bytes for each page with data
    std::vector<Known> known_;
};

}  // namespace snapvm
