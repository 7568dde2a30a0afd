// SPDX-License-Identifier: Apache-2.0
// The check and the repair of one image, of which check_image() is made. Internal to check.cc and
// check_repair.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "devices/disk/qcow2/check.h"
#include "devices/disk/qcow2/cluster_use.h"

namespace snapvm::disk::qcow2 {

class Checker {
public:
    Checker(DiskIo& file, HeaderStore& store)
        : file_(file), header_(store.get()), cluster_size_(header_.cluster_size()) {}

    Task<Status> check();
    Task<Status> repair();
    /// Returns whether only the flags or what cannot be repaired is wrong.
    [[nodiscard]] bool counts_are_right() const { return counts_are_right_; }
    /// Returns whether all tables could be read. If not, what seems to be of no use may be of use
    /// to one that could not, and nothing is repaired.
    [[nodiscard]] bool walked_all() const { return walked_all_; }
    CheckReport report;

private:
    using Bytes = std::vector<std::byte>;
    struct L2Use {
        std::uint32_t times = 0;
        bool active = false;
    };

    [[nodiscard]] std::uint64_t file_clusters() const { return (file_.size() + cluster_size_ - 1) / cluster_size_; }
    void error(const std::string& line);
    /// An error that keeps a table from being read.
    void lost_table(const std::string& line);
    bool mark(std::uint64_t offset, std::uint64_t size, std::uint32_t times, Use use, const char* what);

    [[nodiscard]] Status refuse_too_large() const;
    Task<Result<Bytes>> read(std::uint64_t offset, std::uint64_t size);
    Task<Status> load_counts();
    Task<Status> load_block(std::uint64_t index);
    Task<Status> mark_l1(std::uint64_t offset, std::uint64_t entries, bool active);
    Task<Status> mark_snapshots();
    Task<Status> mark_bitmaps();
    Task<Status> mark_bitmap(std::uint64_t offset, std::uint64_t entries);
    Task<Status> mark_l2(std::uint64_t offset, L2Use use);
    void mark_entry(std::uint64_t word, std::uint64_t bitmap, L2Use use, std::uint64_t& next);
    void mark_blocks();
    void compare();

    [[nodiscard]] bool absent(std::uint64_t cluster) const;
    void make_blocks();
    void drop_damaged_blocks();
    Task<Status> write_counts();
    Task<Status> write_table();
    Task<Status> correct_flags();
    Task<Status> correct_l2(std::uint64_t offset);

    DiskIo& file_;
    const Header& header_;
    std::uint64_t cluster_size_;
    ClusterStates states_;
    std::vector<std::uint64_t> table_;  ///< offsets of the refcount blocks, 0 also for impossible ones
    std::map<std::uint64_t, L2Use> l2_tables_;
    std::uint64_t l1_bytes_ = 0;
    std::set<std::uint64_t> changed_blocks_;
    bool table_changed_ = false;
    bool table_is_there_ = false;
    bool counts_are_right_ = true;
    bool walked_all_ = true;
};

}  // namespace snapvm::disk::qcow2
