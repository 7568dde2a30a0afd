// SPDX-License-Identifier: Apache-2.0
// One try at a snapshot: the area it goes into and what is known of the pages so far. When to copy which pages is decided elsewhere
// (writer.cc with the guest stopped, live.cc while it runs).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "snapshot/area.h"
#include "snapshot/classify.h"
#include "snapshot/history.h"
#include "snapshot/page_sink.h"
#include "snapshot/page_table.h"
#include "snapshot/source.h"
#include "snapshot/staging.h"
#include "snapshot/writer.h"
#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"

namespace snapvm {

/// In this order: open; begin; pages, in any number of passes with a settle_writes between two that may write the same page; finish.
/// One thread. Dropped before finish: AreaWriter says what the area holds then.
class Attempt {
public:
    /// Everything that can be refused is refused here, before anything of the guest stops.
    static Result<Attempt> open(SnapshotSource& source, const AreaPath& path, const WriteOptions& options);
    Attempt(Attempt&&) noexcept = default;
    Attempt& operator=(Attempt&&) = delete;

    /// The small sections, encoded and found to fit.
    struct State {
        std::vector<std::byte> start;
        std::vector<std::byte> state;
    };
    Result<State> take_state();

    /// Whether nothing is lost by beginning at once.
    [[nodiscard]] bool fresh() const { return area_.fresh(); }
    /// From here on the slot's old snapshot is gone, and with it what was known of it.
    Status begin();
    /// After begin: the pages that are to be looked at, where the slot's last snapshot is known; nothing: all. Up to date after a
    /// collect of the feed.
    [[nodiscard]] const DirtySet* changed() const { return base_ ? &base_->pages() : nullptr; }
    /// While the machine stands, and after the last collect: what is written from now on is missing from this snapshot.
    Status follow(DirtyFeed& feed);
    [[nodiscard]] bool begun() const { return begun_; }

    /// Looks at pages [first, first + count) of a block and queues what has data, straight from guest memory: it is read until
    /// settle_writes. Where the guest runs, the bytes are a moment's, or of several; then the page is dirty and comes again.
    Status stream(std::size_t block, std::uint64_t first, std::uint64_t count);
    /// The same, but for the pages of `unused`: free, without a look at them.
    Status stream_used(std::size_t block, std::uint64_t first, std::uint64_t count, const DirtySet& unused);
    /// The same for what was staged.
    Status write_staged(const Staging& staging);
    /// Waits for everything queued.
    Status settle_writes();
    /// Zeroes what has no data any more, writes all sections, and makes the snapshot valid.
    Status finish(const State& state);

    [[nodiscard]] std::uint64_t data_bytes() const { return data_bytes_; }
    /// What this try can tell; the times are the caller's.
    void fill(SnapshotReport& report) const;
    /// An error once somebody has called the snapshot off.
    [[nodiscard]] Status check_cancelled() const;

private:
    Attempt(SnapshotSource& source, AreaShape shape, AreaWriter area, const WriteOptions& options);
    Status write(std::span<const std::byte> data, std::uint64_t offset);
    Status note(std::size_t block, std::uint64_t page, const PageFacts& facts);
    Status zero_stale();
    Status write_entries(const PageTable::Settled& settled, std::vector<std::uint32_t>& crcs);

    SnapshotSource* source_;
    AreaShape shape_;
    WriteOptions options_;
    AreaWriter area_;
    Uuid snapshot_id_;
    bool cached_ = false;
    bool begun_ = false;
    std::unique_ptr<PageSink> sink_;
    std::unique_ptr<Classifier> classifier_;
    PageTable table_;
    std::unique_ptr<DirtyFeed::Subscription> base_;  ///< what the slot has missed since its last snapshot
    std::unique_ptr<DirtyFeed::Subscription> followed_;  ///< what it misses from this one on
    bool diff_ = false;
    DirtySet wrote_;  ///< pages whose data this try has put into the area, whatever they are by now
    std::array<std::uint64_t, kPageClassCount> counts_{};
    std::uint64_t data_bytes_ = 0;
    std::uint64_t unsynced_ = 0;  ///< of them since the kernel was last told to begin
    std::vector<PageFacts> facts_;
};

}  // namespace snapvm
