// SPDX-License-Identifier: Apache-2.0
// What the ledger guest keeps on its disk (option `disk=1`), and what of it in memory, so that a disk of another moment than the memory is
// found out. As ledger_format.h, for the guest and for whoever reads both from outside; ledger_disk_verify.h checks it.
//
// After each `every` steps of shard 0 its vCPU writes a record: number n, from 1, into block (n - 1) % blocks, over the record of a round
// before. A record carries a stamp that no other record has, a clone's of the same number included, and the steps of all shards. Records go
// out up to kDiskWindow at a time; when that many are on their way none follows until all are done and a flush after them is done too. In
// memory, in this order:
//     1. the stamp into header.pending, then header.submitted = n; after that the device is asked to write the record
//     2. when it is done: its bit in header.landed
//     3. when a window of them is flushed: their stamps into `stamps`, then header.flushed = n, then header.landed = 0
// So at any instant at which no request is half done, each block holds the newest record that belongs there and is flushed or has landed;
// of those that are submitted and not landed either that or the one before. A disk of an earlier moment lacks a record that landed, one of a
// later moment has one that was never submitted, and one of another clone has other stamps. And a disk that lost power holds at least all
// windows before the one that its newest record belongs to.
#pragma once

#include "guest-images/ledger/ledger_format.h"

namespace snapvm::ledger {

inline constexpr std::uint64_t kDiskMagic = 0x314B534952474454ULL;
inline constexpr std::uint64_t kRecordMagic = 0x3144524F43455244ULL;
inline constexpr std::uint64_t kBlockBytes = kPageBytes;
inline constexpr std::uint32_t kDiskWindow = 8;
inline constexpr std::uint64_t kLeastBlocks = 2 * kDiskWindow;

// In memory, at Root::disk. What is before `submitted` is written once, the magic number last of it.
struct DiskHeader {
    std::uint64_t magic;  // 0: the disk is not in use yet
    std::uint64_t id;  // of this ledger: another's records on the same disk are not its
    std::uint64_t blocks;  // from the disk's first on
    std::uint64_t every;
    std::uint64_t stamps;  // guest address of a word for each block: the stamp of its newest flushed record
    std::uint64_t submitted;
    std::uint64_t flushed;
    std::uint64_t landed;  // bit n % kDiskWindow: record n of those after `flushed` is done
    std::uint64_t pending[kDiskWindow];  // stamps of those, by n % kDiskWindow
};
static_assert(sizeof(DiskHeader) <= kPageBytes);

// On the disk: the head of a block, then payload words and checksum as in a page.
struct RecordHead {
    std::uint64_t magic;
    std::uint64_t id;
    std::uint64_t number;
    std::uint64_t stamp;
    std::uint64_t steps[kMaxShards];  // committed, as seen when it was made; shard 0's are number * every
    std::uint64_t reserved[4];
};
static_assert(sizeof(RecordHead) == kHeadWords * 8);

constexpr std::uint64_t record_block(const DiskHeader& disk, std::uint64_t number) { return (number - 1) % disk.blocks; }
// The newest record up to `number` that belongs into a block; 0: there is none yet.
constexpr std::uint64_t newest_record(const DiskHeader& disk, std::uint64_t block, std::uint64_t number) {
    return block < number ? block + 1 + (number - 1 - block) / disk.blocks * disk.blocks : 0;
}
// Payload word i of a record is this + i * kPayloadStep.
constexpr std::uint64_t record_base(const DiskHeader& disk, std::uint64_t number, std::uint64_t stamp) {
    return mix(disk.id ^ page_hash(number, stamp));
}

}  // namespace snapvm::ledger
