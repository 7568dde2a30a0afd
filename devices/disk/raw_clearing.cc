// SPDX-License-Identifier: Apache-2.0
// Discards and write-zeroes. File systems and devices support different calls for them.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>

#include "devices/disk/raw.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kZerosAtOnce = 1ULL << 20;
alignas(4096) std::array<std::byte, 64ULL << 10> zeros{};  // never written; not const because iovec is not

bool is_lacking(std::int64_t result) {
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -ENOTTY;
}

}  // namespace

// A discard and write_zeroes with unmap punch a hole, so that the range reads as zeros and old
// bytes never come back. BLKDISCARD is the fallback for devices that do not support that.
// ZERO_RANGE keeps the space allocated; a device writes zeros if it has no better way.
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
            op.kind = io::Request::Kind::allocate;
            op.flags = FALLOC_FL_KEEP_SIZE | (op.way == Way::punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
            break;
        case Way::discard: op.kind = io::Request::Kind::discard; break;
        case Way::write_zeros:
            op.kind = io::Request::Kind::write;
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
        case Way::nothing: end(op, 0); return;  // a discard is only advice
    }
    send(op);
}

void RawDisk::advance_clearing(Op& op, std::int64_t result) {
    // A device also refuses ranges that are no multiple of its sectors with EINVAL. That says
    // nothing about other ranges, so the way is not marked as lacking.
    if (is_lacking(result) || result == -EINVAL) {
        lacking_[static_cast<std::size_t>(op.way)] = lacking_[static_cast<std::size_t>(op.way)] || is_lacking(result);
        op.way = next_way(*op.request, op.way);
        begin(op);
        return;
    }
    if (result == 0 && op.request->durable) {
        op.flushing = true;
        op.kind = io::Request::Kind::flush;
        op.fd = file_.fd.get();
        op.buffers.clear();
        send(op);
        return;
    }
    end(op, static_cast<int>(-result));
}

}  // namespace snapvm
