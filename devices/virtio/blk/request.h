// SPDX-License-Identifier: Apache-2.0
// Parses and checks a request out of a chain of the driver's buffers, which may hold anything
// (5.2.6).
#pragma once

#include <cstdint>
#include <vector>

#include "devices/virtio/queue/chain.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::virtio {

inline constexpr std::uint64_t kSectorSize = 512;

enum class BlkType : std::uint32_t { in = 0, out = 1, flush = 4, get_id = 8, discard = 11, write_zeroes = 13 };

// The status, which is the last byte that the device writes.
inline constexpr std::uint8_t kBlkOk = 0;
inline constexpr std::uint8_t kBlkIoError = 1;
inline constexpr std::uint8_t kBlkUnsupported = 2;

// Feature bits, VIRTIO_BLK_F_*.
inline constexpr std::uint64_t kBlkSegMax = 1ULL << 2;
inline constexpr std::uint64_t kBlkReadOnly = 1ULL << 5;
inline constexpr std::uint64_t kBlkBlkSize = 1ULL << 6;
inline constexpr std::uint64_t kBlkFlush = 1ULL << 9;
inline constexpr std::uint64_t kBlkDiscard = 1ULL << 13;
inline constexpr std::uint64_t kBlkWriteZeroes = 1ULL << 14;

// Limits that the configuration space reports.
inline constexpr std::uint32_t kMaxRanges = 16;  ///< of one discard or write_zeroes
inline constexpr std::uint32_t kMaxDiscardSectors = (1U << 30) / kSectorSize;
inline constexpr std::uint32_t kMaxZeroSectors = (256U << 20) / kSectorSize;  ///< zeros may have to be written

/// One range of a discard or write_zeroes, in bytes.
struct BlkRange {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool unmap = false;
};

/// A checked request.
struct BlkRequest {
    BlkType type{};
    std::uint8_t status = kBlkOk;  ///< if not kBlkOk, the request is refused and the other fields are not valid
    std::uint64_t offset = 0;      ///< in and out: in bytes, within the disk
    std::uint64_t size = 0;        ///< bytes of data, without header and status
    std::vector<BlkRange> ranges;
};

/// What a request is checked against.
struct BlkLimits {
    std::uint64_t sectors = 0;
    bool read_only = false;
    std::uint64_t features = 0;  ///< features that were agreed on
};

/// Parses a chain into `request`. Fails only if the chain has no place for a status: the device
/// then needs a reset.
Status parse_request(const GuestMemory& memory, const Chain& chain, const BlkLimits& limits, BlkRequest& request);

}  // namespace snapvm::virtio
