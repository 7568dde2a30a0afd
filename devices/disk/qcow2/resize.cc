// SPDX-License-Identifier: Apache-2.0
// Gives the disk of an image another size. The header says it last: what is new reads as zeros by
// then, and of what is behind the end nothing is left that a later growth would bring back.
#include <algorithm>
#include <utility>

#include "devices/disk/qcow2/layer.h"
#include "devices/disk/qcow2/snapshot_table.h"
#include "vmm/base/align.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kEntry = 8;  // of the L1 table, in bytes

// Returns how many L1 entries a disk of this size needs.
std::uint64_t entries_for(const Header& header, std::uint64_t size) {
    return size / header.l2_reach() + (size % header.l2_reach() == 0 ? 0 : 1);
}

std::uint64_t clusters_for(const Header& header, std::uint64_t entries) {
    return (entries * kEntry + header.cluster_size() - 1) >> header.cluster_bits;
}

}  // namespace

Task<Status> Layer::resize(std::uint64_t size) {
    Status possible = check_new_size(size);
    CO_TRY(possible);
    Status snapshots = co_await check_snapshots();
    CO_TRY(snapshots);
    Status begun = co_await begin_writing();
    CO_TRY(begun);
    if (size != size_) {
        Status committed = co_await commit();
        CO_TRY(committed);
    }
    if (size > size_) {
        co_return co_await grow(size);
    }
    if (size < size_) {
        co_return co_await shrink(size);
    }
    co_return Status{};
}

Status Layer::check_new_size(std::uint64_t size) const {
    TRY(disk::check_new_size(*this, size));
    const std::uint64_t most = kMaxL1Bytes / kEntry * header().l2_reach();
    if (size > most) {
        return fail(
            ErrorKind::usage,
            name() + ": a disk of " + size_text(size) + " is too large for clusters of " + size_text(cluster_size()),
            "give at most " + size_text(most) + ", or convert the image to one with larger clusters");
    }
    return {};
}

// A snapshot that does not say the size of its disk is taken to have that of the image.
Task<Status> Layer::check_snapshots() {
    const Result<SnapshotTable> table = co_await read_snapshots(*file_, header());
    CO_TRY(table);
    for (const Snapshot& one : table->snapshots) {
        if (!one.has_disk_size) {
            co_return fail(ErrorKind::unsupported,
                           name() + ": its internal snapshots do not say the size of their disk, so it has to stay",
                           "delete them first: qemu-img snapshot -d");
        }
    }
    co_return Status{};
}

Task<Status> Layer::grow(std::uint64_t size) {
    if (const std::uint64_t entries = entries_for(header(), size); entries > header().l1_entries) {
        Status grown = co_await mapping_->grow(static_cast<std::uint32_t>(entries));
        CO_TRY(grown);
    }
    Status zero = co_await zero_new(size);
    CO_TRY(zero);
    Status committed = co_await commit();
    CO_TRY(committed);
    Header next = header();
    next.size = size;
    Status named = co_await header_.replace(std::move(next));
    CO_TRY(named);
    size_ = size;
    co_return Status{};
}

// Has what becomes part of the disk read as zeros: the rest of the last cluster, clusters that
// another program has left behind the end, and what the backing image has there.
Task<Status> Layer::zero_new(std::uint64_t size) {
    const std::uint64_t clusters_end = align_up(size_, cluster_size());
    Status forgotten = co_await forget(clusters_end, align_up(size, cluster_size()));
    CO_TRY(forgotten);
    const std::uint64_t covered = backing_ ? std::min(size, backing_->size()) : 0;
    if (covered <= size_) {
        co_return co_await carry_out(write_zero_bytes(size_, clusters_end - size_));
    }
    const std::uint64_t end = align_up(covered, cluster_size());
    for (std::uint64_t at = size_; at < end;) {
        const std::uint64_t next = std::min(end, align_down(at, header().l2_reach()) + header().l2_reach());
        Status zero = co_await carry_out(zero_range(at, next - at, Clearing::unmap));
        CO_TRY(zero);
        at = next;
    }
    co_return Status{};
}

Task<Status> Layer::shrink(std::uint64_t size) {
    Status forgotten = co_await forget(align_up(size, cluster_size()), header().l1_entries * header().l2_reach());
    CO_TRY(forgotten);
    mapping_->drop_tables(entries_for(header(), size));
    Status committed = co_await commit();
    CO_TRY(committed);
    Header next = header();
    next.size = size;
    Status named = co_await header_.replace(std::move(next));
    CO_TRY(named);
    size_ = size;
    co_return Status{};
}

// Leaves nothing of the clusters in [begin, end), which are behind the disk's end or will be.
Task<Status> Layer::forget(std::uint64_t begin, std::uint64_t end) {
    for (std::uint64_t at = begin; at < end;) {
        const std::uint64_t next = std::min(end, align_down(at, header().l2_reach()) + header().l2_reach());
        if (mapping_->has_table(at >> header().cluster_bits)) {
            Status cleared = co_await carry_out(clear_units(at, next, Clearing::forget));
            CO_TRY(cleared);
        }
        at = next;
    }
    co_return Status{};
}

// --- The L1 table. ---

// The header names the old table until the new one is on the disk, and the old one is not free
// until the header is.
Task<Status> Mapping::grow(std::uint32_t entries) {
    const std::uint64_t clusters = clusters_for(header_.get(), entries);
    Result<std::uint64_t> offset = co_await refcounts_->allocate_exactly(clusters);
    CO_TRY(offset);
    const ClusterRun place(*offset, clusters);
    Status written = co_await write_larger(place);
    if (!written) {
        refcounts_->release(place);
        co_return written;
    }
    Header next = header_.get();
    const ClusterRun old(next.l1_offset, clusters_for(next, next.l1_entries));
    next.l1_offset = place.offset;
    next.l1_entries = entries;
    Status named = co_await header_.replace(std::move(next));
    CO_TRY(named);  // the new clusters are not free: the file may name them
    l1_.resize(entries);
    refcounts_->protect(place);
    if (old.clusters > 0) {
        refcounts_->unprotect(old);
        refcounts_->release(old);
    }
    co_return Status{};
}

// Writes the table as it is, with zeros behind it, where the counts say that it may be.
Task<Status> Mapping::write_larger(ClusterRun place) {
    Status counted = co_await refcounts_->write_raised();
    CO_TRY(counted);
    std::vector<std::byte> bytes(place.clusters << header_.get().cluster_bits);
    for (std::size_t i = 0; i < l1_.size(); ++i) {
        store_be64(bytes, i * kEntry, l1_[i]);
    }
    const std::span<const std::byte> all = bytes;
    Status written = co_await file_.write(place.offset, all);
    CO_TRY(written);
    co_return co_await file_.flush();
}

void Mapping::drop_tables(std::uint64_t first) {
    for (std::uint64_t i = first; i < l1_.size(); ++i) {
        const ClusterRun table(l1_[i] & kOffsetMask, 1);
        if (table.offset == 0) {
            continue;
        }
        l1_[i] = 0;
        changed_sectors_.insert(i * kEntry / kSector);
        tables_.erase(table.offset);
        replaced_.push_back(table.offset);
        refcounts_->unprotect(table);
        refcounts_->release(table);
    }
}

}  // namespace snapvm::disk::qcow2
