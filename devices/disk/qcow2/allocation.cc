// SPDX-License-Identifier: Apache-2.0
// The allocation of clusters: the search for free ones, and the refcount blocks that they lack.
#include <algorithm>
#include <cerrno>

#include "devices/disk/qcow2/refcount_limits.h"
#include "devices/disk/qcow2/refcounts.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kMaxOffset = 1ULL << 56;  // tables hold 56 bits of an offset

}  // namespace

/// What to look for: free clusters in a row, in [from, to).
struct Refcounts::Search {
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    std::uint64_t wanted = 0;
    bool exact = false;
};

/// Free clusters in a row, none if `clusters` is 0. The first `blocks` of them become the refcount
/// blocks that these clusters lack.
struct Refcounts::Found {
    std::uint64_t first = 0;
    std::uint64_t clusters = 0;
    std::uint64_t blocks = 0;
};

/// How far a search is.
struct Refcounts::Scan {
    Search wish;
    std::uint64_t at = 0;
    Found found;
    bool done = false;
    std::uint64_t free = 0;  ///< clusters of this block so far, if `whole`
    bool whole = false;      ///< the scan has begun at the block's start

    void add(std::uint64_t clusters) {
        if (found.clusters == 0) {
            found.first = at;
        }
        found.clusters += clusters;
        done = found.clusters >= wish.wanted + found.blocks;
    }
    /// A cluster that is in use ends the run.
    void interrupt() {
        if (!wish.exact && found.clusters > found.blocks) {
            done = true;
        } else {
            found = {};
        }
    }
};

std::unexpected<Error> Refcounts::refuse_full() const {
    return fail(Error::system("allocate", file_.name(), ENOSPC, file_.device() ? "extend the device" : ""));
}

// Returns the number of clusters that the file may have.
std::uint64_t Refcounts::limit() const { return std::min(file_.limit(), kMaxOffset) / cluster_size_; }

// --- The search for free clusters. ---

Task<Status> Refcounts::scan_piece(Scan& scan) {
    auto piece = co_await blocks_.get(piece_at(scan.at));
    CO_TRY(piece);
    const std::span<const std::byte> bytes = piece->bytes();
    const std::uint64_t end = std::min(last_in_piece(scan.at), scan.wish.to);
    for (; scan.at < end && !scan.done; ++scan.at) {
        if (load_refcount(bytes, order_, scan.at % per_piece_) == 0) {
            scan.add(1);
            ++scan.free;
        } else {
            scan.interrupt();
        }
    }
    co_return Status{};
}

Task<Result<Refcounts::Found>> Refcounts::find(Search wish) {
    Scan scan;
    scan.wish = wish;
    scan.at = wish.from;
    while (scan.at < wish.to && !scan.done) {
        const std::uint64_t block = block_of(scan.at);
        const std::uint64_t end = std::min((block + 1) * per_block_, wish.to);
        if (absent(block)) {
            if (!wish.exact && scan.found.clusters > scan.found.blocks) {
                break;
            }
            ++scan.found.blocks;
            scan.add(std::min(end - scan.at, wish.wanted + scan.found.blocks - scan.found.clusters));
            scan.at = end;
        } else if (free_[block] == 0) {
            scan.interrupt();
            scan.at = end;
        } else {
            if (scan.at % per_block_ == 0) {
                scan.whole = true;
                scan.free = 0;
            }
            Status status = co_await scan_piece(scan);
            CO_TRY(status);
            if (scan.at % per_block_ == 0 && scan.whole) {
                free_[block] = static_cast<std::uint32_t>(scan.free);
            }
        }
    }
    const bool enough = scan.done || (!wish.exact && scan.found.clusters > scan.found.blocks);
    co_return enough ? scan.found : Found();
}

Task<Result<Refcounts::Found>> Refcounts::search(std::uint64_t wanted, bool exact) {
    const std::uint64_t end = std::min(end_ / cluster_size_, limit());
    Search wish;
    wish.wanted = wanted;
    wish.exact = exact;
    wish.from = std::max(next_, lowest_);
    wish.to = end;
    auto behind = co_await find(wish);
    if (!behind || behind->clusters > 0) {
        co_return behind;
    }
    wish.from = lowest_;
    wish.to = std::min(next_, end);
    auto before = co_await find(wish);
    if (!before || before->clusters > 0) {
        co_return before;
    }
    if (!exact) {
        lowest_ = end;
    }
    wish.from = end;
    wish.to = limit();
    co_return co_await find(wish);
}

// --- The clusters that were found. ---

void Refcounts::make_block(std::uint64_t block, std::uint64_t cluster) {
    const std::uint64_t offset = cluster * cluster_size_;
    for (std::uint64_t done = 0; done < cluster_size_; done += blocks_.piece_size()) {
        blocks_.make(offset + done);
    }
    table_[block] = offset;
    free_[block] = static_cast<std::uint32_t>(per_block_);
    block_offsets_.insert(std::ranges::lower_bound(block_offsets_, offset), offset);
    table_changed_ = true;
}

// Sets the counts of free clusters to 1, and makes the blocks for that. Changes nothing if it
// fails.
Task<Status> Refcounts::take(Found found) {
    if (const auto table = table_in(found.first, found.clusters)) {
        co_return refuse_run(ClusterRun(*table, 1));
    }
    auto there = co_await pieces_of(found.first, found.clusters);
    CO_TRY(there);
    const std::uint64_t end = found.first + found.clusters;
    std::uint64_t place = found.first;
    for (std::uint64_t block = block_of(found.first); block <= block_of(end - 1); ++block) {
        if (absent(block)) {
            make_block(block, place++);
        }
    }
    // All are in memory: this does not wait, and so cannot fail.
    auto pieces = co_await pieces_of(found.first, found.clusters);
    CO_TRY(pieces);
    add(*pieces, found.first, found.clusters);
    end_ = std::max(end_, end * cluster_size_);
    co_return Status{};
}

Task<Result<ClusterRun>> Refcounts::allocate_run(std::uint64_t wanted, bool exact) {
    const Mutex::Guard guard = co_await one_at_a_time_.lock();
    for (;;) {
        auto found = co_await search(std::max<std::uint64_t>(wanted, 1), exact);
        CO_TRY(found);
        if (found->clusters == 0) {
            co_return refuse_full();
        }
        const std::uint64_t end = found->first + found->clusters;
        if (block_of(end - 1) >= table_.size()) {
            Status grown = co_await grow_table(block_of(end - 1));
            CO_TRY(grown);
            continue;
        }
        Status taken = co_await take(*found);
        CO_TRY(taken);
        next_ = end;
        co_return ClusterRun((found->first + found->blocks) * cluster_size_, found->clusters - found->blocks);
    }
}

Task<Result<ClusterRun>> Refcounts::allocate(std::uint64_t wanted) { return allocate_run(wanted, false); }

Task<Result<std::uint64_t>> Refcounts::allocate_exactly(std::uint64_t clusters) {
    auto run = co_await allocate_run(clusters, true);
    CO_TRY(run);
    co_return run->offset;
}

// Doubles the table. It is in memory until write_raised(), and its new clusters count as any
// others.
Task<Status> Refcounts::grow_table(std::uint64_t block) {
    const Mutex::Guard guard = co_await writing_.lock();
    const std::size_t before = table_.size();
    const std::uint64_t wanted = std::max<std::uint64_t>(block + 1, before * 2) * 8;
    const std::uint64_t clusters = (std::min(wanted, kMaxRefcountTableBytes) + cluster_size_ - 1) / cluster_size_;
    const std::uint64_t entries = clusters * cluster_size_ / 8;
    if (block >= entries) {
        co_return fail(ErrorKind::unsupported, file_.name() + ": the image has its largest size",
                       "convert it to one with larger clusters");
    }
    table_.resize(entries);
    free_.resize(entries, kNotCounted);
    auto found = co_await search(clusters, true);
    Status taken;
    if (!found) {
        taken = fail(Error(found.error()));
    } else if (found->clusters == 0 || block_of(found->first + found->clusters - 1) >= entries) {
        taken = refuse_full();
    } else {
        taken = co_await take(*found);
    }
    if (!taken) {
        table_.resize(before);
        free_.resize(before);
        co_return taken;
    }
    if (new_table_) {
        unprotect(*new_table_);
        release(*new_table_);
    }
    new_table_ = ClusterRun((found->first + found->blocks) * cluster_size_, clusters);
    protect(*new_table_);
    table_changed_ = true;
    co_return Status{};
}

}  // namespace snapvm::disk::qcow2
