// SPDX-License-Identifier: Apache-2.0
// A qcow2 image as one layer of a chain: what open_image() returns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/disk/image/image.h"
#include "devices/disk/qcow2/concurrency.h"
#include "devices/disk/qcow2/mapping.h"
#include "devices/disk/qcow2/parts.h"
#include "devices/disk/qcow2/qcow2_image.h"
#include "devices/disk/qcow2/refcounts.h"

namespace snapvm::disk::qcow2 {

class Layer final : public Image {
public:
    Layer(std::unique_ptr<DiskIo> file, std::unique_ptr<Image> backing, OpenOptions options, Header header);
    /// Reads the tables. Must be the first call.
    Task<Status> load();

    [[nodiscard]] const std::string& name() const override { return file_->name(); }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] bool read_only() const override { return options_.read_only; }
    [[nodiscard]] Image* backing() const override { return backing_.get(); }

    Task<Result<ExtentRange>> look(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> read(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) override;
    [[nodiscard]] Image* passes_on(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> write(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) override;
    Task<Status> write_zeroes(std::uint64_t offset, std::uint64_t size, bool unmap) override;
    Task<Status> discard(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> resize(std::uint64_t size) override;
    Task<Status> fill_absent(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) override;
    Task<Status> zero_absent(std::uint64_t offset, std::uint64_t size) override;
    Task<Status> rebase(std::string file, std::string format) override;
    Task<Status> flush() override;
    Task<Status> close() override;
    Task<Status> freeze(std::string path) override;
    [[nodiscard]] const DiskFile& file() const override { return file_->file(); }
    std::shared_ptr<Image> exchange_backing(std::shared_ptr<Image> backing) override;

private:
    friend class Checkpointer;  // checkpointer.h
    /// What becomes of a range that is cleared. `forget`: of whole clusters behind the disk's end,
    /// which nothing reads, nothing is left.
    enum class Clearing : std::uint8_t { keep, unmap, discard, forget };

    // qcow2_image.cc
    [[nodiscard]] const Header& header() const { return header_.get(); }
    [[nodiscard]] std::uint64_t cluster_size() const { return header().cluster_size(); }
    /// Returns the size of what is allocated at least: a subcluster, or a cluster.
    [[nodiscard]] std::uint64_t unit() const;
    [[nodiscard]] bool is_within(std::uint64_t offset, std::uint64_t size) const;
    Status check_range(std::uint64_t offset, std::uint64_t size) const;
    [[nodiscard]] bool may_write() const { return writing_ && !options_.read_only && !mapping_->damaged(); }
    Task<Status> begin_writing();
    Task<> note_damage();
    Task<Status> finish();

    // qcow2_read.cc
    Task<Status> read_range(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts);
    [[nodiscard]] std::optional<Run> run_of_all(std::uint64_t offset, std::uint64_t size);
    Task<Status> read_run(Run run, std::uint64_t offset, std::span<const iovec> parts);
    Task<Status> read_backing(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts);
    Task<Status> read_compressed(Run run, std::uint64_t offset, std::span<const iovec> parts);
    Task<Result<std::span<const std::byte>>> expanded(std::uint64_t cluster, Run run);

    // qcow2_write.cc
    /// Where some clusters in a row are to be written.
    struct Target {
        std::uint64_t offset = 0;  ///< in the file
        std::uint64_t clusters = 0;
        bool allocated = false;  ///< just now, for this
    };
    /// The guest's bytes that a write changes, and around them those that it must fill in.
    struct Span {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        std::uint64_t fill_begin = 0;
        std::uint64_t fill_end = 0;
    };
    /// Carries out a call that changes a range. `work` is what it does.
    Task<Status> change(std::uint64_t offset, std::uint64_t size, Task<Status> work);
    /// Does so for a range that need not be within the disk.
    Task<Status> carry_out(Task<Status> work);
    Task<Status> write_range(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts);
    Task<Status> write_locked(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts);
    Task<Result<std::uint64_t>> write_some(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts);
    Task<Result<Target>> choose_target(std::span<const L2Entry> entries);
    [[nodiscard]] Span span_of(std::uint64_t offset, std::uint64_t size, std::span<const L2Entry> entries,
                               const Target& target) const;
    Task<Status> write_span(Span span, std::uint64_t host, std::span<const iovec> parts);
    Task<Status> read_fill(std::uint64_t offset, std::span<std::byte> bytes);
    [[nodiscard]] std::uint32_t mask_of(std::uint64_t cluster, std::uint64_t begin, std::uint64_t end) const;
    void release_clusters(const L2Entry& entry);

    // qcow2_clear.cc
    Task<Status> zero_range(std::uint64_t offset, std::uint64_t size, Clearing how);
    Task<Status> write_zero_bytes(std::uint64_t offset, std::uint64_t size);
    Task<Status> clear_units(std::uint64_t offset, std::uint64_t end, Clearing how);
    Task<Result<std::uint64_t>> clear_some(std::uint64_t offset, std::uint64_t end, Clearing how);
    Task<> replace_entries(TableCache::Ref& piece, std::uint64_t cluster, std::span<const L2Entry> from,
                           std::span<const L2Entry> to);
    [[nodiscard]] L2Entry cleared(const L2Entry& entry, std::uint32_t mask, Clearing how) const;

    // resize.cc
    [[nodiscard]] Status check_new_size(std::uint64_t size) const;
    Task<Status> check_snapshots();
    Task<Status> grow(std::uint64_t size);
    Task<Status> shrink(std::uint64_t size);
    Task<Status> zero_new(std::uint64_t size);
    Task<Status> forget(std::uint64_t begin, std::uint64_t end);

    // qcow2_fill.cc
    Task<Status> fill_range(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts);
    Task<Status> fill_locked(std::uint64_t offset, std::uint64_t size, Parts parts);
    Task<Status> zero_absent_range(std::uint64_t offset, std::uint64_t size);
    Task<Status> fill_zero_bytes(std::uint64_t offset, std::uint64_t size);
    Task<Result<std::uint64_t>> zero_absent_some(std::uint64_t offset, std::uint64_t end);

    // commit.cc
    struct Commit {
        bool ended = false;
        Status status;
    };
    struct Released {
        std::uint64_t before = 0;  ///< calls with smaller tickets may still use the clusters
        std::vector<ClusterRun> runs;
        std::vector<std::uint64_t> tables;  ///< L2 tables among them
    };
    Task<Status> commit();
    Task<Status> commit_once();
    Task<Status> write_tables();
    Task<Status> write_l1(const std::vector<Mapping::L1Change>& changes);
    Task<> lower_released();
    Task<> discard_free(std::span<const ClusterRun> runs);
    Task<Status> commit_if_crowded();
    [[nodiscard]] bool crowded() const { return mapping_->crowded() || refcounts_->crowded(); }

    /// A cluster that was compressed.
    struct Expanded {
        std::uint64_t cluster = ~0ULL;  ///< its number
        std::uint64_t offset = 0;       ///< of the compressed bytes
        std::vector<std::byte> bytes;
    };

    std::unique_ptr<DiskIo> file_;
    std::shared_ptr<Image> backing_;
    std::vector<std::shared_ptr<Image>> left_out_;  ///< images that were behind this one
    OpenOptions options_;
    HeaderStore header_;
    std::uint64_t size_;
    std::unique_ptr<Refcounts> refcounts_;  ///< null if the image is read-only
    std::unique_ptr<Mapping> mapping_;

    CallTickets calls_;
    RangeLock clusters_;  ///< those whose entries change, by number
    bool damage_noted_ = false;
    bool writing_ = false;  ///< the header says so, if it has to
    Mutex beginning_;

    RangeLock expanding_;
    Semaphore expansions_{8};  ///< each has up to three clusters in memory
    std::array<Expanded, 4> expanded_;
    std::size_t next_expanded_ = 0;

    bool committing_ = false;
    std::shared_ptr<Commit> next_commit_;
    WaitList commit_ended_;
    std::deque<Released> released_;  ///< their counts are not lowered yet
};

}  // namespace snapvm::disk::qcow2
