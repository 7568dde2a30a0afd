// SPDX-License-Identifier: Apache-2.0
// The reference counts of an image's clusters.
#include "devices/disk/qcow2/refcounts.h"

#include <algorithm>
#include <bit>

#include "devices/disk/qcow2/big_endian.h"
#include "devices/disk/qcow2/refcount_limits.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr const char* kRepair = "try \"qemu-img check -r all\" on a copy";

}  // namespace

std::uint64_t load_refcount(std::span<const std::byte> block, std::uint32_t order, std::uint64_t index) {
    if (order < 3) {
        const std::uint64_t bit = index << order;
        const unsigned mask = (1U << (1U << order)) - 1;
        return (std::to_integer<unsigned>(block[bit / 8]) >> (bit % 8)) & mask;
    }
    const std::size_t size = std::size_t{1} << (order - 3);
    std::uint64_t count = 0;
    for (const std::byte byte : block.subspan(index * size, size)) {
        count = count << 8 | std::to_integer<std::uint64_t>(byte);
    }
    return count;
}

void store_refcount(std::span<std::byte> block, std::uint32_t order, std::uint64_t index, std::uint64_t count) {
    if (order < 3) {
        const std::uint64_t bit = index << order;
        const unsigned mask = ((1U << (1U << order)) - 1) << (bit % 8);
        std::byte& byte = block[bit / 8];
        byte = (byte & ~std::byte(mask)) | std::byte(static_cast<unsigned>(count) << (bit % 8) & mask);
        return;
    }
    const std::size_t size = std::size_t{1} << (order - 3);
    for (std::size_t i = size; i > 0; --i) {
        block[index * size + i - 1] = std::byte(count & 0xFF);
        count >>= 8;
    }
}

Refcounts::Refcounts(DiskIo& file, HeaderStore& header, std::size_t max_pieces)
    : file_(file),
      header_(header),
      cluster_size_(header.get().cluster_size()),
      order_(header.get().refcount_order),
      per_block_(header.get().refcounts_per_block()),
      per_piece_(TableCache::piece_size_of(cluster_size_) * 8 >> order_),
      blocks_(file, cluster_size_, max_pieces) {}

Task<Result<std::unique_ptr<Refcounts>>> Refcounts::open(DiskIo& file, HeaderStore& header, std::size_t max_pieces) {
    std::unique_ptr<Refcounts> counts(new Refcounts(file, header, max_pieces));
    Status read = co_await counts->read_table();
    CO_TRY(read);
    Status found = co_await counts->find_end();
    CO_TRY(found);
    co_return counts;
}

// --- What the image must be like. ---

std::unexpected<Error> Refcounts::refuse_table(std::uint64_t offset) const {
    return fail(ErrorKind::invalid,
                file_.name() + ": the refcount table is damaged: it has the entry " + std::to_string(offset), kRepair);
}

std::unexpected<Error> Refcounts::refuse_run(ClusterRun run) const {
    return fail(ErrorKind::invalid,
                file_.name() + ": the reference counts are wrong of " + std::to_string(run.clusters) +
                    " clusters at the offset " + std::to_string(run.offset),
                kRepair);
}

void Refcounts::protect(ClusterRun run) {
    if (run.clusters > 0) {
        protected_[run.offset] = run.offset + run.clusters * cluster_size_;
    }
}

// Returns the offset of a table that lies in these clusters.
std::optional<std::uint64_t> Refcounts::table_in(std::uint64_t first, std::uint64_t clusters) const {
    const std::uint64_t begin = first * cluster_size_;
    const std::uint64_t end = begin + clusters * cluster_size_;
    const auto after = protected_.lower_bound(end);
    if (after != protected_.begin() && std::prev(after)->second > begin) {
        return std::prev(after)->first;
    }
    const auto block = std::ranges::lower_bound(block_offsets_, begin);
    if (block != block_offsets_.end() && *block < end) {
        return *block;
    }
    return std::nullopt;
}

Task<Status> Refcounts::read_table() {
    const Header& header = header_.get();
    const std::uint64_t offset = header.refcount_table_offset;
    const std::uint64_t size = std::uint64_t{header.refcount_table_clusters} * cluster_size_;
    if (offset == 0 || offset % cluster_size_ != 0 || size == 0 || size > kMaxRefcountTableBytes ||
        offset >= file_.size()) {
        co_return fail(ErrorKind::invalid, file_.name() + ": the refcount table is not in the file", kRepair);
    }
    std::vector<std::byte> bytes(size);
    const std::span<std::byte> all = bytes;
    Status read = co_await file_.read(offset, all);
    CO_TRY(read);
    protect(ClusterRun(0, 1));
    if (table_in(offset / cluster_size_, header.refcount_table_clusters)) {
        co_return refuse_table(offset);
    }
    protect(ClusterRun(offset, header.refcount_table_clusters));
    table_.resize(size / 8);
    free_.resize(size / 8, kNotCounted);
    for (std::size_t i = 0; i < table_.size(); ++i) {
        const std::uint64_t block = load_be64(bytes, i * 8);
        table_[i] = block;
        if (block == 0) {
            continue;
        }
        if (block % cluster_size_ != 0 || block >= file_.size() || table_in(block / cluster_size_, 1)) {
            co_return refuse_table(block);
        }
        block_offsets_.push_back(block);
    }
    std::ranges::sort(block_offsets_);
    if (const auto twice = std::ranges::adjacent_find(block_offsets_); twice != block_offsets_.end()) {
        co_return refuse_table(*twice);
    }
    co_return Status{};
}

// A device has no end of its own: the last cluster in use is the end.
Task<Status> Refcounts::find_end() {
    if (!file_.device()) {
        end_ = align_up(file_.size(), cluster_size_);
        co_return Status{};
    }
    for (std::uint64_t block = table_.size(); block > 0 && end_ == 0; --block) {
        if (table_[block - 1] != 0) {
            auto used = co_await used_in_block(block - 1);
            CO_TRY(used);
            end_ = *used * cluster_size_;
        }
    }
    co_return Status{};
}

// Returns the end of the last cluster in use that a block counts, as a number of clusters; 0 if
// there is none.
Task<Result<std::uint64_t>> Refcounts::used_in_block(std::uint64_t block) {
    for (std::uint64_t end = (block + 1) * per_block_; end > block * per_block_; end -= per_piece_) {
        auto piece = co_await blocks_.get(piece_at(end - 1));
        CO_TRY(piece);
        for (std::uint64_t i = per_piece_; i > 0; --i) {
            if (load_refcount(piece->bytes(), order_, i - 1) != 0) {
                co_return end - per_piece_ + i;
            }
        }
    }
    co_return 0;
}

// Returns where the file has the piece that counts a cluster. Its block must be there.
std::uint64_t Refcounts::piece_at(std::uint64_t cluster) const {
    return table_[block_of(cluster)] + cluster % per_block_ / per_piece_ * blocks_.piece_size();
}

std::uint64_t Refcounts::last_in_piece(std::uint64_t cluster) const {
    return cluster - cluster % per_piece_ + per_piece_;
}

Task<Result<std::uint64_t>> Refcounts::count(std::uint64_t offset) {
    const std::uint64_t cluster = offset / cluster_size_;
    if (absent(block_of(cluster))) {
        co_return 0;
    }
    auto piece = co_await blocks_.get(piece_at(cluster));
    CO_TRY(piece);
    co_return load_refcount(piece->bytes(), order_, cluster % per_piece_);
}

// --- Changes of counts. ---

// Returns the pieces that count these clusters, in their order. Blocks that are absent have none.
Task<Result<std::vector<TableCache::Ref>>> Refcounts::pieces_of(std::uint64_t first, std::uint64_t clusters) {
    std::vector<TableCache::Ref> pieces;
    for (std::uint64_t at = first; at < first + clusters; at = last_in_piece(at)) {
        if (absent(block_of(at))) {
            continue;
        }
        auto piece = co_await blocks_.get(piece_at(at));
        CO_TRY(piece);
        pieces.push_back(*std::move(piece));
    }
    co_return pieces;
}

// Raises counts by one. The pieces are those that count the clusters, without a gap.
void Refcounts::add(std::span<TableCache::Ref> pieces, std::uint64_t first, std::uint64_t clusters) {
    std::uint64_t at = first;
    for (TableCache::Ref& piece : pieces) {
        const std::span<std::byte> bytes = piece.change();
        for (const std::uint64_t end = std::min(last_in_piece(at), first + clusters); at < end; ++at) {
            const std::uint64_t count = load_refcount(bytes, order_, at % per_piece_);
            store_refcount(bytes, order_, at % per_piece_, count + 1);
            std::uint32_t& free = free_[block_of(at)];
            free -= count == 0 && free != kNotCounted ? 1 : 0;
        }
    }
}

Task<Status> Refcounts::raise(ClusterRun run) {
    const Mutex::Guard guard = co_await one_at_a_time_.lock();
    const std::uint64_t first = run.offset / cluster_size_;
    const std::uint64_t counted = table_.size() * per_block_;
    if (run.offset % cluster_size_ != 0 || first > counted || run.clusters > counted - first) {
        co_return refuse_run(run);
    }
    auto pieces = co_await pieces_of(first, run.clusters);
    CO_TRY(pieces);
    const std::uint64_t most = ~0ULL >> (64 - (1U << order_));
    std::uint64_t at = first;
    for (const TableCache::Ref& piece : *pieces) {
        if (absent(block_of(at))) {
            co_return refuse_run(run);
        }
        for (const std::uint64_t end = std::min(last_in_piece(at), first + run.clusters); at < end; ++at) {
            const std::uint64_t count = load_refcount(piece.bytes(), order_, at % per_piece_);
            if (count == 0 || count == most) {
                co_return refuse_run(ClusterRun(at * cluster_size_, 1));
            }
        }
    }
    if (at != first + run.clusters) {
        co_return refuse_run(run);
    }
    add(*pieces, first, run.clusters);
    co_return Status{};
}

// Returns false if the count is wrong.
bool Refcounts::lower_one(TableCache::Ref& piece, std::uint64_t cluster, std::vector<ClusterRun>& freed) {
    const std::uint64_t count = load_refcount(piece.bytes(), order_, cluster % per_piece_);
    if (count == 0 || (count == 1 && table_in(cluster, 1))) {
        return false;
    }
    store_refcount(piece.change(), order_, cluster % per_piece_, count - 1);
    if (count > 1) {
        return true;
    }
    std::uint32_t& free = free_[block_of(cluster)];
    free += free != kNotCounted ? 1 : 0;
    lowest_ = std::min(lowest_, cluster);
    const std::uint64_t offset = cluster * cluster_size_;
    if (!freed.empty() && freed.back().offset + freed.back().clusters * cluster_size_ == offset) {
        ++freed.back().clusters;
    } else {
        freed.push_back(ClusterRun(offset, 1));
    }
    return true;
}

// Moves the end to before the free clusters that it follows, as far as this piece tells.
void Refcounts::trim_end(const TableCache::Ref& piece, std::uint64_t last) {
    const std::uint64_t begin = last - last % per_piece_;
    while (end_ == (last + 1) * cluster_size_ && load_refcount(piece.bytes(), order_, last % per_piece_) == 0 &&
           !table_in(last, 1)) {
        end_ -= cluster_size_;
        if (last == begin) {
            return;
        }
        --last;
    }
}

Task<Status> Refcounts::lower_run(ClusterRun run, std::vector<ClusterRun>& freed) {
    const std::uint64_t first = run.offset / cluster_size_;
    const std::uint64_t counted = table_.size() * per_block_;
    if (run.offset % cluster_size_ != 0 || first > counted || run.clusters > counted - first) {
        co_return refuse_run(run);
    }
    const std::uint64_t end = first + run.clusters;
    bool wrong = false;
    for (std::uint64_t at = first; at < end;) {
        if (absent(block_of(at))) {
            wrong = true;
            at = (block_of(at) + 1) * per_block_;
            continue;
        }
        auto piece = co_await blocks_.get(piece_at(at));
        if (!piece) {
            release(ClusterRun(at * cluster_size_, end - at));
            co_return fail(std::move(piece).error());
        }
        for (const std::uint64_t stop = std::min(last_in_piece(at), end); at < stop; ++at) {
            wrong |= !lower_one(*piece, at, freed);
        }
        trim_end(*piece, at - 1);
    }
    if (wrong) {
        co_return refuse_run(run);
    }
    co_return Status{};
}

Task<Result<std::vector<ClusterRun>>> Refcounts::lower(std::vector<ClusterRun> runs) {
    const Mutex::Guard guard = co_await one_at_a_time_.lock();
    std::vector<ClusterRun> freed;
    Status status;
    for (const ClusterRun& run : runs) {
        Status lowered = co_await lower_run(run, freed);
        if (!lowered) {
            status = std::move(lowered);
        }
    }
    CO_TRY(status);
    co_return freed;
}

// --- Writing. ---

// Writes the table that names the blocks, all of which are on the disk.
Task<Status> Refcounts::write_table(std::span<const std::byte> bytes) {
    if (new_table_) {
        co_return co_await move_table(bytes, *new_table_);
    }
    Status written = co_await file_.write(header_.get().refcount_table_offset, bytes);
    CO_TRY(written);
    co_return co_await file_.flush();
}

// The header names the old table until the new one is on the disk, and the old one is not free
// until the header is.
Task<Status> Refcounts::move_table(std::span<const std::byte> bytes, ClusterRun place) {
    Status written = co_await file_.write(place.offset, bytes);
    CO_TRY(written);
    Status flushed = co_await file_.flush();
    CO_TRY(flushed);
    const ClusterRun old(header_.get().refcount_table_offset, header_.get().refcount_table_clusters);
    name_table(place);
    Status named = co_await header_.write();
    if (named) {
        named = co_await file_.flush();
    }
    if (!named) {
        name_table(old);
        co_return named;
    }
    new_table_.reset();
    unprotect(old);
    release(old);
    co_return Status{};
}

void Refcounts::name_table(ClusterRun place) {
    header_.change().refcount_table_offset = place.offset;
    header_.change().refcount_table_clusters = static_cast<std::uint32_t>(place.clusters);
}

Task<Status> Refcounts::write_raised() {
    const Mutex::Guard guard = co_await writing_.lock();
    if (!dirty()) {
        co_return Status{};
    }
    unflushed_ = true;
    const bool with_table = std::exchange(table_changed_, false);
    Status written = co_await write_all(with_table);
    table_changed_ |= with_table && !written;
    unflushed_ = !written;
    co_return written;
}

// The table is copied at the same moment as the blocks, so it names no block that is not written.
Task<Status> Refcounts::write_all(bool with_table) {
    std::vector<std::byte> table(with_table ? table_.size() * 8 : 0);
    for (std::size_t i = 0; i * 8 < table.size(); ++i) {
        store_be64(table, i * 8, table_[i]);
    }
    Status written = co_await blocks_.write_dirty();
    CO_TRY(written);
    Status flushed = co_await file_.flush();
    CO_TRY(flushed);
    if (with_table) {
        const std::span<const std::byte> bytes = table;
        co_return co_await write_table(bytes);
    }
    co_return Status{};
}

}  // namespace snapvm::disk::qcow2
