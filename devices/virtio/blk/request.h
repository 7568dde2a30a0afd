// SPDX-License-Identifier: Apache-2.0
// What a driver asks of its disk, out of a chain of its buffers: hostile until it has come through here (5.2.6).
#pragma once

#include <cstdint>
#include <vector>

#include "devices/virtio/queue/chain.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::virtio {

inline constexpr std::uint64_t kSectorSize = 512;

enum class BlkType : std::uint32_t { in = 0, out = 1, flush = 4, get_id = 8, discard = 11, write_zeroes = 13 };

// Status, the last byte that the device writes.
inline constexpr std::uint8_t kBlkOk = 0;
inline constexpr std::uint8_t kBlkIoError = 1;
inline constexpr std::uint8_t kBlkUnsupported = 2;

// VIRTIO_BLK_F_*, the bits.
inline constexpr std::uint64_t kBlkSegMax = 1ULL << 2;
inline constexpr std::uint64_t kBlkReadOnly = 1ULL << 5;
inline constexpr std::uint64_t kBlkBlkSize = 1ULL << 6;
inline constexpr std::uint64_t kBlkFlush = 1ULL << 9;
inline constexpr std::uint64_t kBlkDiscard = 1ULL << 13;
inline constexpr std::uint64_t kBlkWriteZeroes = 1ULL << 14;

// Limits that the configuration space tells.
inline constexpr std::uint32_t kMaxRanges = 16;  ///< of a discard or write_zeroes
inline constexpr std::uint32_t kMaxDiscardSectors = (1U << 30) / kSectorSize;
inline constexpr std::uint32_t kMaxZeroSectors = (256U << 20) / kSectorSize;  ///< may have to be written as bytes

/// A range of a discard or write_zeroes, in bytes.
struct BlkRange {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool unmap = false;
};

struct BlkRequest {
    BlkType type{};
    std::uint8_t status = kBlkOk;  ///< not kBlkOk: refused, nothing of the rest counts
    std::uint64_t offset = 0;      ///< in and out: bytes, within the disk
    std::uint64_t size = 0;        ///< of the data, without header and status
    std::vector<BlkRange> ranges;
};

/// What the request may rely on.
struct BlkLimits {
    std::uint64_t sectors = 0;
    bool read_only = false;
    std::uint64_t features = 0;  ///< that were agreed on
};

/// Fills `request` from a chain. An error means that there is not even a place for its status: the device then needs a reset.
Status parse_request(const GuestMemory& memory, const Chain& chain, const BlkLimits& limits, BlkRequest& request);

}  // namespace snapvm::virtio
