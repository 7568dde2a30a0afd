// SPDX-License-Identifier: Apache-2.0
// Where the guest's clusters are in the file: the L1 table in memory, L2 tables through a cache.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "devices/disk/qcow2/entries.h"
#include "devices/disk/qcow2/refcounts.h"
#include "devices/disk/qcow2/table_cache.h"

namespace snapvm::disk::qcow2 {

/// A range of the guest's disk that is of one kind.
struct Run {
    enum class Kind : std::uint8_t { backing, zero, data, compressed };
    Kind kind = Kind::backing;
    std::uint64_t size = 0;  ///< in bytes
    /// Of data: where its first byte is in the file. The following ones are in a row. Of
    /// compressed: where the bytes of its one cluster begin.
    std::uint64_t host = 0;
    std::uint64_t compressed_size = 0;  ///< of compressed: that of its cluster, at most
    bool copied = false;                ///< of data: it may be written in place
};

class Mapping {
public:
    /// Reads the L1 table. Without `refcounts` the mapping cannot be changed. Fails with invalid if
    /// an entry is not possible.
    static Task<Result<std::unique_ptr<Mapping>>> open(DiskIo& file, HeaderStore& header, Refcounts* refcounts,
                                                       std::size_t max_pieces);

    /// Tells what the guest's bytes from `offset` on are, for 1 to `size` bytes.
    Task<Result<Run>> look(std::uint64_t offset, std::uint64_t size);
    /// The same without a wait: nothing if a table must be read first, or if look() would fail.
    [[nodiscard]] std::optional<Run> look_in_memory(std::uint64_t offset, std::uint64_t size);
    /// Returns the entries of 1 to `count` clusters from the guest's cluster number `cluster` on.
    /// Fails with invalid for an entry that refers to what cannot be data; then damaged() is true.
    Task<Result<std::vector<L2Entry>>> entries(std::uint64_t cluster, std::uint64_t count);

    /// Returns the piece with a cluster's entry, for set(). Makes or copies the L2 table if the
    /// image has none of its own for it.
    Task<Result<TableCache::Ref>> writable(std::uint64_t cluster);
    /// Changes entries within the piece. Waits while the gate is closed.
    Task<> set(TableCache::Ref& piece, std::uint64_t cluster, std::span<const L2Entry> entries);

    // For a change of the disk's size. No other call may be under way, and nothing is dirty.
    /// Gives the L1 table this many entries, which are more than it has. The larger one is another
    /// one in the file. After a failure the table is as before.
    Task<Status> grow(std::uint32_t entries);
    /// Whether the image has an L2 table for this cluster.
    [[nodiscard]] bool has_table(std::uint64_t cluster) const { return (l1_[l1_index(cluster)] & kOffsetMask) != 0; }
    /// Removes the L2 tables from the L1 entry `first` on. Their entries must be of no use.
    void drop_tables(std::uint64_t first);

    /// Returns whether an entry was found that a sound image cannot have.
    [[nodiscard]] bool damaged() const { return damaged_; }

    // For a commit. While the gate is closed no table changes.
    void close_gate() { closed_ = true; }
    void open_gate();
    [[nodiscard]] bool dirty() const { return pieces_.dirty() > 0 || !changed_sectors_.empty(); }
    [[nodiscard]] bool crowded() const { return pieces_.crowded(); }
    Task<Status> write_l2() { return pieces_.write_dirty(); }
    /// Sectors of the L1 table with their bytes.
    struct L1Change {
        std::uint64_t offset = 0;  ///< in the file
        std::vector<std::byte> bytes;
    };
    /// Returns the changed sectors of the L1 table as they are now. Those whose write fails must
    /// be given to put_back().
    std::vector<L1Change> take_l1_changes();
    void put_back(const std::vector<L1Change>& changes);
    /// Forgets tables that were replaced.
    void forget_table(std::uint64_t offset) { pieces_.forget(offset, header_.get().cluster_size()); }
    [[nodiscard]] std::vector<std::uint64_t> take_replaced_tables() { return std::exchange(replaced_, {}); }

    // For checkpoints (checkpoint_tables.cc), while no call is under way and nothing is dirty.
    [[nodiscard]] const std::vector<std::uint64_t>& l1() const { return l1_; }
    /// Returns whether the L1 table refers to an L2 table at `offset`.
    [[nodiscard]] bool is_l2_table(std::uint64_t offset) const { return tables_.contains(offset); }
    /// Takes over the L1 table that the header names. The one before was at `old_offset`.
    void replace_l1(std::vector<std::uint64_t> words, std::uint64_t old_offset);
    /// The image takes no more writes, as if an entry were damaged.
    void refuse_writes() { damaged_ = true; }

private:
    struct Place {
        std::uint64_t table = 0;   ///< the L2 table's offset, or 0
        std::uint64_t offset = 0;  ///< of the entry in the table
        /// The image has the table for itself. Clusters of a table that a snapshot shares are
        /// shared, too, whatever their entries say.
        bool own = false;
    };
    Mapping(DiskIo& file, HeaderStore& header, Refcounts* refcounts, std::size_t max_pieces);
    Task<Status> load();
    [[nodiscard]] std::uint64_t l1_index(std::uint64_t cluster) const { return cluster >> table_bits_; }
    [[nodiscard]] Place place(std::uint64_t cluster) const;
    [[nodiscard]] std::uint64_t in_piece(std::uint64_t cluster) const;
    [[nodiscard]] L2Words words_at(std::span<const std::byte> piece, const Place& at) const;
    Result<L2Entry> entry_at(std::span<const std::byte> piece, const Place& at);
    Result<Run> run_of(std::span<const std::byte> piece, std::uint64_t offset, std::uint64_t size, Place at);
    Status check(const L2Entry& entry);
    void protect(std::uint64_t offset, std::uint64_t bytes);
    [[nodiscard]] bool is_metadata(std::uint64_t offset, std::uint64_t size) const;
    std::unexpected<Error> damage(const std::string& what);
    Task<Status> write_larger(ClusterRun place);
    Task<Status> make_table(std::uint64_t index);
    Task<Status> copy_table(std::uint64_t from, std::uint64_t to);
    Task<> gate();

    DiskIo& file_;
    HeaderStore& header_;
    Refcounts* refcounts_;
    TableCache pieces_;
    // The header does not change in these.
    const std::uint32_t cluster_bits_;
    const bool extended_;             ///< entries have subclusters
    const std::uint32_t entry_bits_;  ///< of the size of an L2 entry
    const std::uint32_t table_bits_;  ///< of the number of entries in an L2 table
    std::vector<std::uint64_t> l1_;  ///< words as the file has them
    std::set<std::uint64_t> changed_sectors_;
    std::unordered_set<std::uint64_t> tables_;   ///< offsets of the L2 tables
    std::vector<std::uint64_t> replaced_;
    Mutex making_;
    bool closed_ = false;
    WaitList opened_;
    bool damaged_ = false;
};

}  // namespace snapvm::disk::qcow2
