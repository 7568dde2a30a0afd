// SPDX-License-Identifier: Apache-2.0
// Fills what a qcow2 image lacks, beside writes that go on: under the locks of the clusters, only
// what is still absent is written.
#include <algorithm>

#include "devices/disk/qcow2/layer.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::size_t kTogether = 32;  // parts of one request
constexpr std::uint64_t kZerosAtOnce = 2ULL << 20;

}  // namespace

Task<Status> Layer::fill_absent(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    return change(offset, size, fill_range(offset, size, parts));
}

Task<Status> Layer::zero_absent(std::uint64_t offset, std::uint64_t size) {
    return change(offset, size, zero_absent_range(offset, size));
}

Task<Status> Layer::fill_range(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    TaskGroup group(kTogether);
    Status looked;
    for (std::uint64_t done = 0; done < size && !group.failed();) {
        Result<Run> run = co_await mapping_->look(offset + done, size - done);
        if (!run) {
            looked = fail(std::move(run).error());
            break;
        }
        if (run->kind == Run::Kind::backing) {
            co_await group.add(fill_locked(offset + done, run->size, slice(parts, done, run->size)));
        }
        done += run->size;
    }
    Status ended = co_await group.wait();
    CO_TRY(looked);
    co_return ended;
}

Task<Status> Layer::fill_locked(std::uint64_t offset, std::uint64_t size, Parts parts) {
    const std::uint64_t first = offset >> header().cluster_bits;
    const std::uint64_t last = (offset + size - 1) >> header().cluster_bits;
    auto alone = co_await clusters_.lock(first, last - first + 1);
    for (std::uint64_t done = 0; done < size;) {
        // Once more: a write may have come before the lock.
        Result<Run> run = co_await mapping_->look(offset + done, size - done);
        CO_TRY(run);
        std::uint64_t passed = run->size;
        if (run->kind == Run::Kind::backing) {
            const Parts some = slice(parts, done, run->size);
            Result<std::uint64_t> wrote = co_await write_some(offset + done, run->size, some);
            CO_TRY(wrote);
            passed = *wrote;
        }
        done += passed;
    }
    co_return {};
}

Task<Status> Layer::zero_absent_range(std::uint64_t offset, std::uint64_t size) {
    if (!backing_) {
        co_return {};  // what is absent reads so
    }
    const std::uint64_t end = offset + size;
    const std::uint64_t first = align_up(offset, unit());
    // The end of the disk is the end of its last cluster.
    const std::uint64_t last = end == size_ ? align_up(end, cluster_size()) : align_down(end, unit());
    if (header().version < 3 || first >= last) {
        co_return co_await fill_zero_bytes(offset, size);
    }
    Status status = co_await fill_zero_bytes(offset, first - offset);
    CO_TRY(status);
    for (std::uint64_t at = first; at < last;) {
        Result<std::uint64_t> next = co_await zero_absent_some(at, last);
        CO_TRY(next);
        at = *next;
    }
    if (last < end) {
        co_return co_await fill_zero_bytes(last, end - last);
    }
    co_return {};
}

Task<Status> Layer::fill_zero_bytes(std::uint64_t offset, std::uint64_t size) {
    for (std::uint64_t done = 0; done < size;) {
        const std::uint64_t some = std::min(size - done, kZerosAtOnce);
        const Parts zeros = zero_parts(some);
        Status status = co_await fill_range(offset + done, some, zeros);
        CO_TRY(status);
        done += some;
    }
    co_return {};
}

// Handles the first units, at least those in one cluster, and returns where the next ones begin.
Task<Result<std::uint64_t>> Layer::zero_absent_some(std::uint64_t offset, std::uint64_t end) {
    const std::uint64_t cluster = offset >> header().cluster_bits;
    const std::uint64_t count = std::min(((end - 1) >> header().cluster_bits) - cluster + 1, header().l2_entries());
    auto alone = co_await clusters_.lock(cluster, count);
    Result<std::vector<L2Entry>> from = co_await mapping_->entries(cluster, count);
    CO_TRY(from);
    std::vector<L2Entry> to = *from;
    for (std::size_t i = 0; i < to.size(); ++i) {
        to[i].zero |= mask_of(cluster + i, offset, end) & ~to[i].allocated;
    }
    if (*from != to) {
        Result<TableCache::Ref> piece = co_await mapping_->writable(cluster);
        CO_TRY(piece);
        co_await replace_entries(*piece, cluster, *from, to);
    }
    co_return std::min(end, (cluster + to.size()) << header().cluster_bits);
}

}  // namespace snapvm::disk::qcow2
