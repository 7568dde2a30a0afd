// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/blk/request.h"

#include <array>
#include <span>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::size_t kHeader = 16;  // struct virtio_blk_req up to its data
constexpr std::size_t kRange = 16;   // struct virtio_blk_discard_write_zeroes
constexpr std::uint32_t kUnmap = 1;  // a bit of its flags

bool within(std::uint64_t sector, std::uint64_t count, std::uint64_t sectors) {
    return sector <= sectors && count <= sectors - sector;  // in this order nothing wraps around
}

void parse_transfer(std::uint64_t sector, const BlkLimits& limits, BlkRequest& request) {
    if (request.size % kSectorSize != 0 || !within(sector, request.size / kSectorSize, limits.sectors) ||
        (request.type == BlkType::out && limits.read_only)) {
        request.status = kBlkIoError;
        return;
    }
    request.offset = sector * kSectorSize;
}

Status parse_ranges(const GuestMemory& memory, const Chain& chain, const BlkLimits& limits, BlkRequest& request) {
    const bool discard = request.type == BlkType::discard;
    if ((limits.features & (discard ? kBlkDiscard : kBlkWriteZeroes)) == 0) {
        request.status = kBlkUnsupported;
        return {};
    }
    if (request.size == 0 || request.size % kRange != 0 || request.size / kRange > kMaxRanges || limits.read_only) {
        request.status = kBlkIoError;
        return {};
    }
    std::array<std::byte, kRange * kMaxRanges> bytes;
    const auto data = std::span(bytes).first(request.size);
    TRY(read_chain(memory, chain, kHeader, data));
    Decoder in(data);
    while (in.left() > 0) {
        const std::uint64_t sector = in.u64();
        const std::uint32_t count = in.u32();
        const std::uint32_t flags = in.u32();
        if ((flags & ~(discard ? 0 : kUnmap)) != 0) {
            request.status = kBlkUnsupported;  // 5.2.6.2: reserved flags, and unmap in a discard, are unsupported
            return {};
        }
        if (!within(sector, count, limits.sectors) || count > (discard ? kMaxDiscardSectors : kMaxZeroSectors)) {
            request.status = kBlkIoError;
            return {};
        }
        if (count > 0) {
            request.ranges.push_back({sector * kSectorSize, count * kSectorSize, (flags & kUnmap) != 0});
        }
    }
    return {};
}

}  // namespace

Status parse_request(const GuestMemory& memory, const Chain& chain, const BlkLimits& limits, BlkRequest& request) {
    request.status = kBlkOk;
    request.size = request.offset = 0;
    request.ranges.clear();
    if (chain.writable_bytes == 0) {
        return fail(ErrorKind::invalid, "virtio-blk: a request has no room for its status");
    }
    std::array<std::byte, kHeader> header;
    if (TRY(read_chain(memory, chain, 0, header)) < kHeader) {
        request.status = kBlkIoError;
        return {};
    }
    Decoder in(header);
    request.type = static_cast<BlkType>(in.u32());
    (void)in.u32();  // reserved
    const std::uint64_t sector = in.u64();
    switch (request.type) {
        case BlkType::in:
            request.size = chain.writable_bytes - 1;
            parse_transfer(sector, limits, request);
            return {};
        case BlkType::out:
            request.size = chain.readable_bytes - kHeader;
            parse_transfer(sector, limits, request);
            return {};
        case BlkType::discard:
        case BlkType::write_zeroes:
            request.size = chain.readable_bytes - kHeader;
            return parse_ranges(memory, chain, limits, request);
        case BlkType::get_id: request.size = chain.writable_bytes - 1; return {};
        case BlkType::flush: return {};
    }
    request.status = kBlkUnsupported;
    return {};
}

}  // namespace snapvm::virtio
