// SPDX-License-Identifier: Apache-2.0
// The reference counts of an image's clusters: which are free, and who may write in place.
// Source: QEMU, docs/interop/qcow2.rst, "Host cluster management".
//
// A count is raised on the disk before a table refers to the cluster, and lowered after no table
// does. A crash can leave clusters to which no table refers. It cannot leave a cluster with two
// uses.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/qcow2/header.h"
#include "devices/disk/qcow2/table_cache.h"

namespace snapvm::disk::qcow2 {

/// Some clusters in a row.
struct ClusterRun {
    std::uint64_t offset = 0;  ///< in the file, in bytes
    std::uint64_t clusters = 0;
};

/// Returns the number at `index` of a refcount block, or of a part of one.
std::uint64_t load_refcount(std::span<const std::byte> block, std::uint32_t order, std::uint64_t index);
void store_refcount(std::span<std::byte> block, std::uint32_t order, std::uint64_t index, std::uint64_t count);

/// Several tasks may call at a time. Numbers of clusters are offsets in units of clusters.
class Refcounts {
public:
    /// Reads the refcount table. Fails with invalid if an entry is not possible. `max_pieces` are
    /// of piece_size() bytes each.
    static Task<Result<std::unique_ptr<Refcounts>>> open(DiskIo& file, HeaderStore& header, std::size_t max_pieces);

    /// Says that these clusters hold a table. They are never given out or freed, whatever their
    /// counts say: allocate() fails with invalid, and so does a lower() that would free one. The
    /// header, the refcount table and its blocks are protected from the start.
    void protect(ClusterRun run);
    /// Returns whether the cluster at `offset` is protected.
    [[nodiscard]] bool is_table(std::uint64_t offset) const { return table_in(offset / cluster_size_, 1).has_value(); }
    /// Ends that, for a run that protect() had.
    void unprotect(ClusterRun run) { protected_.erase(run.offset); }

    /// Returns the count of the cluster at `offset`; 0 behind what the table counts.
    Task<Result<std::uint64_t>> count(std::uint64_t offset);
    /// Takes 1 to `wanted` free clusters in a row and sets their counts to 1: the first free ones
    /// from where the last call ended, then from the start, then at the end of the file. Their
    /// bytes are whatever they are. Fails with system (ENOSPC) on a device that is full.
    Task<Result<ClusterRun>> allocate(std::uint64_t wanted);
    /// Takes `clusters` free clusters in a row, and returns the offset of the first one.
    Task<Result<std::uint64_t>> allocate_exactly(std::uint64_t clusters);
    /// Raises counts by one. Fails with invalid if one would not fit or is 0, and then changes
    /// none.
    Task<Status> raise(ClusterRun run);
    /// Lowers counts by one at the next lower(), when nothing on the disk refers to these
    /// clusters any more.
    void release(ClusterRun run) { released_.push_back(run); }
    [[nodiscard]] bool has_released() const { return !released_.empty(); }

    /// Writes raised counts, and the table if it has grown, and flushes if there was something to
    /// write. Afterwards tables may be written that refer to the clusters.
    Task<Status> write_raised();
    /// Lowers the counts of what was released before the caller's last flush of the tables (take
    /// them with take_released() before that flush), and returns the clusters that became free, for
    /// discards. They may be allocated again at once. The counts are written by the next
    /// write_raised(). What could not be read is released again. Fails with invalid if a count was
    /// 0, or is the last one of a protected cluster; the others are lowered.
    Task<Result<std::vector<ClusterRun>>> lower(std::vector<ClusterRun> runs);
    [[nodiscard]] std::vector<ClusterRun> take_released() { return std::exchange(released_, {}); }

    /// Returns the end of the last cluster in use that this object knows of; the file may be cut
    /// there.
    [[nodiscard]] std::uint64_t end() const { return end_; }
    [[nodiscard]] bool crowded() const { return blocks_.crowded(); }
    [[nodiscard]] bool dirty() const { return blocks_.dirty() > 0 || table_changed_ || unflushed_; }

private:
    struct Search;
    struct Found;
    struct Scan;
    Refcounts(DiskIo& file, HeaderStore& header, std::size_t max_pieces);

    Task<Status> read_table();
    Task<Status> find_end();
    Task<Result<std::uint64_t>> used_in_block(std::uint64_t block);

    [[nodiscard]] std::uint64_t block_of(std::uint64_t cluster) const { return cluster / per_block_; }
    [[nodiscard]] bool absent(std::uint64_t block) const { return block >= table_.size() || table_[block] == 0; }
    [[nodiscard]] std::uint64_t piece_at(std::uint64_t cluster) const;
    [[nodiscard]] std::uint64_t last_in_piece(std::uint64_t cluster) const;
    [[nodiscard]] std::uint64_t limit() const;
    [[nodiscard]] std::optional<std::uint64_t> table_in(std::uint64_t first, std::uint64_t clusters) const;
    [[nodiscard]] std::unexpected<Error> refuse_table(std::uint64_t offset) const;
    [[nodiscard]] std::unexpected<Error> refuse_run(ClusterRun run) const;
    [[nodiscard]] std::unexpected<Error> refuse_full() const;

    Task<Result<ClusterRun>> allocate_run(std::uint64_t wanted, bool exact);
    Task<Result<Found>> search(std::uint64_t wanted, bool exact);
    Task<Result<Found>> find(Search wish);
    Task<Status> scan_piece(Scan& scan);
    Task<Status> take(Found found);
    void make_block(std::uint64_t block, std::uint64_t cluster);
    Task<Status> grow_table(std::uint64_t block);
    Task<Result<std::vector<TableCache::Ref>>> pieces_of(std::uint64_t first, std::uint64_t clusters);
    void add(std::span<TableCache::Ref> pieces, std::uint64_t first, std::uint64_t clusters);
    Task<Status> lower_run(ClusterRun run, std::vector<ClusterRun>& freed);
    bool lower_one(TableCache::Ref& piece, std::uint64_t cluster, std::vector<ClusterRun>& freed);

    void trim_end(const TableCache::Ref& piece, std::uint64_t last);

    Task<Status> write_all(bool with_table);
    Task<Status> write_table(std::span<const std::byte> bytes);
    Task<Status> move_table(std::span<const std::byte> bytes, ClusterRun place);
    void name_table(ClusterRun place);

    DiskIo& file_;
    HeaderStore& header_;
    std::uint64_t cluster_size_;
    std::uint32_t order_;        ///< of the size of a count in bits
    std::uint64_t per_block_;    ///< counts of a block
    std::uint64_t per_piece_;    ///< counts of a piece
    TableCache blocks_;
    std::vector<std::uint64_t> table_;  ///< offsets of the blocks
    /// The free clusters of each block, or kNotCounted until a search has seen all of the block.
    std::vector<std::uint32_t> free_;
    std::vector<std::uint64_t> block_offsets_;         ///< sorted
    std::map<std::uint64_t, std::uint64_t> protected_;  ///< the end of each range by its offset
    bool table_changed_ = false;
    bool unflushed_ = false;
    std::optional<ClusterRun> new_table_;  ///< where the grown table goes
    std::uint64_t lowest_ = 0;             ///< no cluster before this one is free
    std::uint64_t next_ = 0;               ///< where the search for a free cluster begins
    std::uint64_t end_ = 0;
    std::vector<ClusterRun> released_;
    Mutex one_at_a_time_;
    Mutex writing_;
};

}  // namespace snapvm::disk::qcow2
