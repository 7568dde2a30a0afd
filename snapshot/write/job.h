// SPDX-License-Identifier: Apache-2.0
// One snapshot while it is made: what is known of the pages so far, and the destination that they
// go to. Others decide which pages are copied when: write_snapshot.cc with the guest stopped,
// rounds.cc while it runs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "snapshot/source/source.h"
#include "snapshot/write/classify.h"
#include "snapshot/write/destination.h"
#include "snapshot/write/history.h"
#include "snapshot/write/options.h"
#include "snapshot/write/page_table.h"
#include "snapshot/write/report.h"
#include "snapshot/write/staging.h"
#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"

namespace snapvm {

/// Call open(), then begin(); then copy pages in any number of passes, with a drain() between two
/// passes that may write the same page; take_state() while the guest stands still; then finish().
/// One thread.
class SnapshotJob {
public:
    /// Refuses what can be refused before the guest stops. Fails with usage if a diff is asked for
    /// and the destination's last snapshot is not known. `source` and `destination` must outlive
    /// the job.
    static Result<SnapshotJob> open(SnapshotSource& source, Destination& destination, const WriteOptions& options);
    SnapshotJob(SnapshotJob&&) noexcept = default;
    SnapshotJob& operator=(SnapshotJob&&) = delete;

    [[nodiscard]] const Destination& destination() const { return *destination_; }

    /// Begins the destination. Its old snapshot is gone, and so is what the history knew of it.
    Status begin();
    [[nodiscard]] bool begun() const { return begun_; }
    /// After begin(): the pages that changed since the destination's last snapshot; null if all
    /// must be copied. A collect() of the feed brings them up to date.
    [[nodiscard]] const DirtySet* changed() const { return base_ ? &base_->pages() : nullptr; }
    /// Starts the record of what the next snapshot has to write, and drops changed(). Call it after
    /// the last collect() and before the guest runs on. A call before the pause is right too, but
    /// the next snapshot then writes pages that this one has already.
    Status follow(DirtyFeed& feed);

    /// Starts the next round, which looks at `pages` pages.
    void begin_round(std::uint64_t pages);
    /// Classifies pages [first, first + count) of a block and puts those with data, straight from
    /// guest memory, which is read until drain(). While the guest runs, the bytes may be a mix of
    /// several moments; such a page is dirty and comes again with a later round.
    Status stream(std::size_t block, std::uint64_t first, std::uint64_t count);
    /// Does the same, but records the pages of `unused` as free without reading them.
    Status stream_used(std::size_t block, std::uint64_t first, std::uint64_t count, const DirtySet& unused);
    /// Puts the staged pages. `staging` is read until drain().
    Status write_staged(const Staging& staging);
    /// Waits until all data that was put has arrived.
    Status drain() { return destination_->drain(); }

    /// Saves the machine's state into the destination. The machine must be frozen.
    Status take_state();
    /// Completes the snapshot and makes it valid.
    Status finish();

    /// Returns the bytes of page data put so far.
    [[nodiscard]] std::uint64_t data_bytes() const { return data_bytes_; }
    /// Fills in what the job knows. The caller fills in the times.
    void fill(SnapshotReport& report) const;
    /// Fails with cancelled once the snapshot has been called off.
    [[nodiscard]] Status check_cancelled() const;

private:
    SnapshotJob(SnapshotSource& source, Destination& destination, const WriteOptions& options, Classifier classifier);
    Status put(std::size_t block, std::uint64_t first, std::span<const std::byte> bytes,
               std::span<const PageFacts> facts);
    void count_done(std::uint64_t pages);

    SnapshotSource* source_;
    Destination* destination_;
    WriteOptions options_;
    Uuid snapshot_id_;
    bool begun_ = false;
    std::uint32_t round_ = 0;
    Classifier classifier_;
    PageTable table_;
    std::unique_ptr<DirtyFeed::Subscription> base_;  ///< pages that the destination has missed since its last snapshot
    std::unique_ptr<DirtyFeed::Subscription> followed_;  ///< pages that it misses from this snapshot on
    bool diff_ = false;
    std::array<std::uint64_t, kPageClassCount> counts_{};
    std::uint64_t data_bytes_ = 0;
    std::vector<PageFacts> facts_;
};

}  // namespace snapvm
