// SPDX-License-Identifier: Apache-2.0
// Discards and write-zeroes, which each file system and device has in ways of its own.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>

#include "devices/disk/raw.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kZerosAtOnce = 1ULL << 20;
alignas(4096) std::array<std::byte, 64ULL << 10> zeros{};  // never written: an iovec has no const

bool is_lacking(std::int64_t result) {
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -ENOTTY;
}

}  // namespace

// A discard and write_zeroes with unmap punch a hole, so that what is given up reads as zeros and old bytes never come back; only a device
// that cannot do that is told BLKDISCARD. ZERO_RANGE keeps the space (on a device it writes zeros where it has nothing better).
RawDisk::Way RawDisk::next_way(const DiskRequest& request, Way after) const {
    static constexpr std::array kDiscard = {Way::punch, Way::discard};
    static constexpr std::array kUnmap = {Way::punch, Way::zero_range, Way::write_zeros};
    static constexpr std::array kZero = {Way::zero_range, Way::write_zeros};
    const std::span<const Way> ways = request.kind == DiskRequest::Kind::discard ? std::span<const Way>(kDiscard)
                                      : request.unmap                            ? std::span<const Way>(kUnmap)
                                                                                 : std::span<const Way>(kZero);
    const auto last = std::ranges::find(ways, after);
    for (auto way = last == ways.end() ? ways.begin() : last + 1; way != ways.end(); ++way) {
        if (!lacking_[static_cast<std::size_t>(*way)]) {
            return *way;
        }
    }
    return Way::nothing;
}

void RawDisk::begin_clearing(Op& op) {
    const DiskRequest& request = *op.request;
    op.offset = request.offset + op.done;
    op.size = request.size - op.done;
    op.fd = file_.fd.get();
    switch (op.way) {
        case Way::punch:
        case Way::zero_range:
            op.kind = DiskCall::Kind::allocate;
            op.flags = FALLOC_FL_KEEP_SIZE | (op.way == Way::punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
            break;
        case Way::discard: op.kind = DiskCall::Kind::discard; break;
        case Way::write_zeros:
            op.kind = DiskCall::Kind::write;
            op.flags = 0;
            op.size = std::min(op.size, kZerosAtOnce);
            op.buffers.clear();
            for (std::uint64_t at = 0; at < op.size; at += zeros.size()) {
                op.buffers.push_back({zeros.data(), std::min<std::uint64_t>(zeros.size(), op.size - at)});
            }
            if (file_.direct_fd.valid() && !op.buffered && offset_aligned(op) && buffers_aligned(op)) {
                op.fd = file_.direct_fd.get();
            }
            break;
        case Way::nothing: end(op, 0); return;  // a discard is advice
    }
    send(op);
}

void RawDisk::advance_clearing(Op& op, std::int64_t result) {
    // A device also refuses ranges with EINVAL that are no multiple of its sectors: that is no reason to ask it never again.
    if (is_lacking(result) || result == -EINVAL) {
        lacking_[static_cast<std::size_t>(op.way)] = lacking_[static_cast<std::size_t>(op.way)] || is_lacking(result);
        op.way = next_way(*op.request, op.way);
        begin(op);
        return;
    }
    if (result == 0 && op.request->durable) {
        op.flushing = true;
        op.kind = DiskCall::Kind::flush;
        op.fd = file_.fd.get();
        op.buffers.clear();
        send(op);
        return;
    }
    end(op, static_cast<int>(-result));
}

}  // namespace snapvm
