// SPDX-License-Identifier: Apache-2.0
// What the device reports of its disk: features and configuration space, and the part of them that
// a snapshot keeps.
#include <algorithm>

#include "devices/virtio/blk/blk.h"

namespace snapvm::virtio {
namespace {

// An indirect table as long as the queue, without header and status.
constexpr std::uint32_t kSegMax = Disk::kMaxInFlight - 2;

}  // namespace

void BlkStateV1::encode(Encoder& out) const {
    out.u64(sectors);
    out.u32(block_size);
    if (!kept.empty()) {
        out.u16(static_cast<std::uint16_t>(kept.size()));
        for (const std::uint16_t head : kept) {
            out.u16(head);
        }
    }
}

BlkStateV1 BlkStateV1::decode(Decoder& in) {
    BlkStateV1 state;
    state.sectors = in.u64();
    state.block_size = in.u32();
    if (in.left() == 0) {
        return state;  // no request is kept; records without this list are older, too
    }
    const std::uint16_t kept = in.u16();
    for (unsigned i = 0; i < kept && !in.bad(); ++i) {
        state.kept.push_back(in.u16());
    }
    if (kept == 0) {
        (void)in.take(in.left() + 1);  // an empty list is not written, so the bytes are malformed
    }
    return state;
}

std::uint64_t Blk::features() const {
    return kBlkSegMax | kBlkBlkSize | kBlkFlush | (disk_->read_only() ? kBlkReadOnly : kBlkDiscard | kBlkWriteZeroes);
}

// struct virtio_blk_config, 5.2.4.
void Blk::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const std::uint32_t block_sectors = state_.block_size / kSectorSize;
    const bool writable = !disk_->read_only();
    Encoder out;
    out.u64(state_.sectors);
    out.u32(0);  // size_max: not limited
    out.u32(kSegMax);
    out.u32(0);  // geometry: none
    out.u32(state_.block_size);
    out.u64(0);  // topology: none
    out.u8(1);   // writeback
    out.u8(0);
    out.u16(1);  // num_queues
    out.u32(writable ? kMaxDiscardSectors : 0);
    out.u32(writable ? kMaxRanges : 0);
    out.u32(writable ? block_sectors : 0);  // discard_sector_alignment
    out.u32(writable ? kMaxZeroSectors : 0);
    out.u32(writable ? kMaxRanges : 0);
    out.u8(writable ? 1 : 0);  // write_zeroes_may_unmap
    const auto space = out.bytes();
    if (offset < space.size()) {
        const auto part = space.subspan(offset, std::min(data.size(), space.size() - offset));
        std::ranges::copy(part, data.begin());
    }
}

}  // namespace snapvm::virtio
