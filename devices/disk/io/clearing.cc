// SPDX-License-Identifier: Apache-2.0
// Discards and write-zeroes. File systems and devices support different calls for them.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>

#include "devices/disk/io/file_calls.h"

namespace snapvm::disk {
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
FileCalls::Way FileCalls::next_way(const DiskRequest& request, Way after) const {
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

void FileCalls::begin_clearing(Call& call) {
    const DiskRequest& request = *call.request_;
    call.offset = request.offset + call.done_;
    call.size = request.size - call.done_;
    call.fd = file_.fd.get();
    switch (call.way_) {
        case Way::punch:
        case Way::zero_range:
            call.kind = io::Request::Kind::allocate;
            call.flags = FALLOC_FL_KEEP_SIZE | (call.way_ == Way::punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
            break;
        case Way::discard: call.kind = io::Request::Kind::discard; break;
        case Way::write_zeros:
            call.kind = io::Request::Kind::write;
            call.flags = 0;
            call.size = std::min(call.size, kZerosAtOnce);
            call.buffers.clear();
            for (std::uint64_t at = 0; at < call.size; at += zeros.size()) {
                call.buffers.push_back({zeros.data(), std::min<std::uint64_t>(zeros.size(), call.size - at)});
            }
            if (file_.direct_fd.valid() && !call.buffered_ && offset_aligned(call) && buffers_aligned(call)) {
                call.fd = file_.direct_fd.get();
            }
            break;
        case Way::nothing: end(call, 0); return;  // a discard is only advice
    }
    send(call);
}

void FileCalls::advance_clearing(Call& call, std::int64_t result) {
    // A device also refuses ranges that are no multiple of its sectors with EINVAL. That says
    // nothing about other ranges, so the way is not marked as lacking.
    if (is_lacking(result) || result == -EINVAL) {
        lacking_[static_cast<std::size_t>(call.way_)] =
            lacking_[static_cast<std::size_t>(call.way_)] || is_lacking(result);
        call.way_ = next_way(*call.request_, call.way_);
        begin(call);
        return;
    }
    if (result == 0 && call.request_->durable) {
        call.flushing_ = true;
        call.kind = io::Request::Kind::flush;
        call.fd = file_.fd.get();
        call.buffers.clear();
        send(call);
        return;
    }
    end(call, static_cast<int>(-result));
}

}  // namespace snapvm::disk
