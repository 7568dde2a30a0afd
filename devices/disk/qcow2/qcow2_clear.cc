// SPDX-License-Identifier: Apache-2.0
// Zeros and discards in a qcow2 image: entries say so where the format has a way, and zeros are
// written elsewhere.
#include <algorithm>

#include "devices/disk/qcow2/layer.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint32_t kAll = ~std::uint32_t{0};
constexpr std::uint64_t kZerosAtOnce = 2ULL << 20;

}  // namespace

Task<Status> Layer::write_zeroes(std::uint64_t offset, std::uint64_t size, bool unmap) {
    return change(offset, size, zero_range(offset, size, unmap ? Clearing::unmap : Clearing::keep));
}

Task<Status> Layer::discard(std::uint64_t offset, std::uint64_t size) {
    return change(offset, size, zero_range(offset, size, Clearing::discard));
}

// Handles what is not whole units here. A discard leaves it as it is.
Task<Status> Layer::zero_range(std::uint64_t offset, std::uint64_t size, Clearing how) {
    const bool discard = how == Clearing::discard;
    const std::uint64_t least = discard ? cluster_size() : unit();
    const std::uint64_t end = offset + size;
    const std::uint64_t first = align_up(offset, least);
    // The end of the disk is the end of its last cluster.
    const std::uint64_t last = end == size_ ? align_up(end, cluster_size()) : align_down(end, least);
    const bool possible = header().version >= 3 || !backing_;
    if (!possible || first >= last) {
        if (discard) {
            co_return {};
        }
        co_return co_await write_zero_bytes(offset, size);
    }
    if (!discard && offset < first) {
        Status status = co_await write_zero_bytes(offset, first - offset);
        CO_TRY(status);
    }
    Status status = co_await clear_units(first, last, how);
    CO_TRY(status);
    if (!discard && last < end) {
        co_return co_await write_zero_bytes(last, end - last);
    }
    co_return {};
}

// Writes zeros where the range does not read so already.
Task<Status> Layer::write_zero_bytes(std::uint64_t offset, std::uint64_t size) {
    for (std::uint64_t done = 0; done < size;) {
        Result<Run> run = co_await mapping_->look(offset + done, std::min(size - done, kZerosAtOnce));
        CO_TRY(run);
        const bool zero = run->kind == Run::Kind::zero || (run->kind == Run::Kind::backing && !backing_);
        if (!zero) {
            const Parts zeros = zero_parts(run->size);
            Status status = co_await write_range(offset + done, run->size, zeros);
            CO_TRY(status);
        }
        done += run->size;
    }
    co_return {};
}

Task<Status> Layer::clear_units(std::uint64_t offset, std::uint64_t end, Clearing how) {
    for (std::uint64_t at = offset; at < end;) {
        Result<std::uint64_t> next = co_await clear_some(at, end, how);
        CO_TRY(next);
        at = *next;
    }
    co_return {};
}

// Clears the first units, at least those in one cluster, and returns where the next ones begin.
Task<Result<std::uint64_t>> Layer::clear_some(std::uint64_t offset, std::uint64_t end, Clearing how) {
    const std::uint64_t cluster = offset >> header().cluster_bits;
    const std::uint64_t count = std::min(((end - 1) >> header().cluster_bits) - cluster + 1, header().l2_entries());
    auto alone = co_await clusters_.lock(cluster, count);
    Result<std::vector<L2Entry>> from = co_await mapping_->entries(cluster, count);
    CO_TRY(from);
    std::vector<L2Entry> to;
    for (const L2Entry& entry : *from) {
        const std::uint32_t mask = mask_of(cluster + to.size(), offset, end);
        if (entry.kind == L2Entry::Kind::compressed && mask != kAll) {
            break;
        }
        to.push_back(cleared(entry, mask, how));
    }
    if (to.empty()) {
        // A part of a compressed cluster cannot be zero by itself.
        const std::uint64_t next = std::min(end, (cluster + 1) << header().cluster_bits);
        const Parts zeros = zero_parts(next - offset);
        Result<std::uint64_t> written = co_await write_some(offset, next - offset, zeros);
        CO_TRY(written);
        co_return next;
    }
    from->resize(to.size());
    if (*from != to) {
        Result<TableCache::Ref> piece = co_await mapping_->writable(cluster);
        CO_TRY(piece);
        co_await replace_entries(*piece, cluster, *from, to);
    }
    co_return std::min(end, (cluster + to.size()) << header().cluster_bits);
}

// Returns the entry with the parts of `mask` cleared.
L2Entry Layer::cleared(const L2Entry& entry, std::uint32_t mask, Clearing how) const {
    if (how == Clearing::forget) {
        return {};
    }
    const bool unallocated = entry.kind == L2Entry::Kind::unallocated;
    if (!backing_ && mask == kAll && (header().version < 3 || how == Clearing::discard || entry == L2Entry{})) {
        return {};
    }
    if (how == Clearing::discard && unallocated) {
        return entry;  // has no space to free
    }
    L2Entry result = entry;
    result.allocated &= ~mask;
    result.zero |= mask;
    const bool keep = how == Clearing::keep && entry.kind == L2Entry::Kind::data && entry.copied;
    if (result.allocated == 0 && !keep) {
        return {.zero = result.zero};  // releases the cluster
    }
    return result;
}

}  // namespace snapvm::disk::qcow2
