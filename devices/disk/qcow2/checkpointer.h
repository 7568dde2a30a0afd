// SPDX-License-Identifier: Apache-2.0
// One change of an image's checkpoints, of which the functions in checkpoint.h are made. Internal
// to checkpoint.cc and checkpoint_tables.cc.
//
// The tables are in the file, and not changed in memory, when a change begins. So it works on the
// file, table by table, and tells the mapping what it must forget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/disk/qcow2/checkpoint.h"
#include "devices/disk/qcow2/layer.h"
#include "devices/disk/qcow2/snapshot_table.h"

namespace snapvm::disk::qcow2 {

class Checkpointer {
public:
    explicit Checkpointer(Layer& layer)
        : layer_(layer), file_(*layer.file_), store_(layer.header_), cluster_bits_(store_.get().cluster_bits) {}

    Task<Result<SnapshotTable>> read_table() { return read_snapshots(file_, store_.get()); }
    Task<Result<Snapshot>> save(const NewCheckpoint& what);
    Task<Status> revert(const std::string& id_or_name, SizeChange size);
    Task<Status> remove(const std::string& id_or_name);

private:
    /// Entries of an L1 table, as the file has them.
    using Words = std::vector<std::uint64_t>;
    using Bytes = std::vector<std::byte>;
    static constexpr std::uint64_t kAllRuns = ~0ULL;  ///< for lower()
    /// What a flag of an L1 or L2 entry becomes.
    enum class Flags : std::uint8_t {
        clear,
        correct,  ///< set if the cluster's count is 1
    };

    // checkpoint.cc
    [[nodiscard]] const Header& header() const { return store_.get(); }
    [[nodiscard]] std::uint64_t cluster_size() const { return header().cluster_size(); }
    /// Returns how many L1 entries a disk of this size needs. What comes behind them is not the
    /// disk's: QEMU keeps the state of the machine there.
    [[nodiscard]] std::uint64_t l1_entries(std::uint64_t disk_size) const;
    [[nodiscard]] ClusterRun run_of(std::uint64_t offset, std::uint64_t bytes) const;
    Task<Status> begin();
    Task<Status> settle();
    Task<> end();
    Task<Status> write_header();
    Task<Status> switch_to(Header next);
    Task<Status> save_begun(SnapshotTable table, Snapshot& added);
    Task<Status> save_named(std::span<const Snapshot> snapshots, ClusterRun old_table, const Words& words);
    Task<Status> revert_begun(const Snapshot& snapshot);
    Task<Status> switch_l1(const Snapshot& snapshot, const Words& words);
    Task<Status> remove_begun(SnapshotTable table, std::size_t index);

    // checkpoint_tables.cc
    std::unexpected<Error> damaged(const std::string& what) const;
    Task<Result<Words>> read_l1(const Snapshot& snapshot, std::uint64_t entries);
    Status check_l1(std::uint64_t offset, const Words& words) const;
    Task<Status> check_l2(const Words& words);
    Task<Result<Bytes>> read_l2(std::uint64_t word);
    Status collect(const Bytes& table, std::vector<ClusterRun>& uses) const;
    Task<Result<std::vector<ClusterRun>>> uses_of(std::uint64_t word);
    Task<Result<ClusterRun>> write_new(std::span<const std::byte> bytes);
    Task<> give_back(ClusterRun run);
    Task<Status> raise(const Words& words);
    Task<Status> raise_one(ClusterRun run);
    Task<Status> raise_counted(const Words& words, std::uint64_t& raised);
    Task<> lower(const Words& words, std::uint64_t most);
    Task<> lower_runs(std::span<const ClusterRun> runs);
    Task<Result<bool>> flag_of(std::uint64_t offset, Flags flags);
    Task<Status> set_l2_flags(std::uint64_t word, Flags flags);
    Task<Status> set_flags(const Words& words, Flags flags);
    Task<Status> set_l1_flags(std::uint64_t entries, Flags flags);
    Task<> free_unused();

    Layer& layer_;
    DiskIo& file_;
    HeaderStore& store_;
    unsigned cluster_bits_;
    bool marked_ = false;   ///< this change has set the dirty bit
    bool right_ = true;     ///< counts and flags are right, as far as this change knows
    bool unknown_ = false;  ///< which of two headers the file has
};

}  // namespace snapvm::disk::qcow2
