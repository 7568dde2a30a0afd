// SPDX-License-Identifier: Apache-2.0
// Makes data and tables durable, in this order: data and raised counts, L2 tables, the L1 table,
// lowered counts. So at each instant what the file refers to is there.
#include <algorithm>

#include "devices/disk/qcow2/layer.h"

namespace snapvm::disk::qcow2 {

Task<Status> Layer::flush() {
    if (options_.read_only) {
        co_return {};
    }
    co_return co_await commit();
}

// A caller may need what has ended since the commit under way began. So it takes the next one, and
// shares it with all that come until that begins.
Task<Status> Layer::commit() {
    if (!next_commit_) {
        next_commit_ = std::make_shared<Commit>();
    }
    const std::shared_ptr<Commit> mine = next_commit_;
    while (!mine->ended) {
        if (committing_) {
            co_await commit_ended_.wait();
            continue;
        }
        committing_ = true;
        next_commit_.reset();
        mine->status = co_await commit_once();
        mine->ended = true;
        committing_ = false;
        commit_ended_.wake_all();
    }
    co_return mine->status;
}

Task<Status> Layer::commit_once() {
    Released released{
        .before = calls_.next(), .runs = refcounts_->take_released(), .tables = mapping_->take_replaced_tables()};
    released_.push_back(std::move(released));
    Status status = co_await write_tables();
    CO_TRY(status);  // what was released waits for a commit that succeeds
    co_await lower_released();
    co_return {};
}

Task<Status> Layer::write_tables() {
    Status settled = co_await header_.settle();
    CO_TRY(settled);
    // An entry that changes now could get into the file before its data and its count.
    mapping_->close_gate();
    const bool counts = refcounts_->dirty();
    Status status = co_await refcounts_->write_raised();
    if (status && !counts) {
        status = co_await file_->flush();
    }
    const bool tables = mapping_->dirty();
    if (status && tables) {
        status = co_await mapping_->write_l2();
    }
    const std::vector<Mapping::L1Change> changes =
        status ? mapping_->take_l1_changes() : std::vector<Mapping::L1Change>{};
    mapping_->open_gate();
    CO_TRY(status);
    if (tables) {
        status = co_await write_l1(changes);
    }
    co_return status;
}

Task<Status> Layer::write_l1(const std::vector<Mapping::L1Change>& changes) {
    Status status = co_await file_->flush();
    for (std::size_t i = 0; status && i < changes.size(); ++i) {
        status = co_await file_->write(changes[i].offset, std::span<const std::byte>(changes[i].bytes));
    }
    if (status && !changes.empty()) {
        status = co_await file_->flush();
    }
    if (!status) {
        mapping_->put_back(changes);
    }
    co_return status;
}

// Frees what the last commits have released, as far as no call can still use it. A failure leaves
// clusters that nothing refers to, which harms nothing: the commit has done its work.
Task<> Layer::lower_released() {
    while (!released_.empty() && released_.front().before <= calls_.oldest()) {
        const Released released = std::move(released_.front());
        released_.pop_front();
        for (const std::uint64_t table : released.tables) {
            mapping_->forget_table(table);
        }
        if (released.runs.empty()) {
            continue;
        }
        if (options_.discard) {
            // Before the counts are lowered: afterwards a cluster may have new data.
            co_await discard_free(released.runs);
        }
        Result<std::vector<ClusterRun>> ignored = co_await refcounts_->lower(released.runs);
        (void)ignored;
    }
}

// Discards the clusters whose counts become 0.
Task<> Layer::discard_free(std::span<const ClusterRun> runs) {
    std::vector<std::uint64_t> clusters;
    for (const ClusterRun& run : runs) {
        for (std::uint64_t i = 0; i < run.clusters; ++i) {
            clusters.push_back(run.offset + (i << header().cluster_bits));
        }
    }
    std::ranges::sort(clusters);
    ClusterRun free;
    for (auto at = clusters.begin(); at != clusters.end();) {
        const auto next = std::upper_bound(at, clusters.end(), *at);
        Result<std::uint64_t> count = co_await refcounts_->count(*at);
        const bool becomes_free =
            count && *count == static_cast<std::uint64_t>(next - at) && !refcounts_->is_table(*at);
        const std::uint64_t size = free.clusters << header().cluster_bits;
        if (free.clusters != 0 && (!becomes_free || free.offset + size != *at)) {
            Status ignored = co_await file_->discard(free.offset, size);
            (void)ignored;
            free.clusters = 0;
        }
        if (becomes_free) {
            free.offset = free.clusters == 0 ? *at : free.offset;
            ++free.clusters;
        }
        at = next;
    }
    if (free.clusters != 0) {
        Status ignored = co_await file_->discard(free.offset, free.clusters << header().cluster_bits);
        (void)ignored;
    }
}

// A commit that fails and leaves the tables in memory crowded fails the caller's request: otherwise
// a guest could have them grow as long as the disk is full.
Task<Status> Layer::commit_if_crowded() {
    if (!crowded()) {
        co_return Status{};
    }
    Status made = co_await commit();
    co_return crowded() ? made : Status{};
}

}  // namespace snapvm::disk::qcow2
