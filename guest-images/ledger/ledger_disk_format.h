// SPDX-License-Identifier: Apache-2.0
// What the ledger guest keeps on its disk (option `disk=1`), and what it keeps about the disk in
// memory, so that a disk of another moment than the memory is found. Like ledger_format.h, this is
// for the guest and for programs that read memory and disk from outside; ledger_disk_verify.h
// checks it.
//
// After each `every` steps of shard 0 its vCPU writes a record. Record n, counted from 1, goes into
// block (n - 1) % blocks, over an older record. A record carries the steps of all shards, and a
// stamp that no other record has, not even the record n of a clone. Up to kDiskWindow records are
// in flight at a time. After a full window none follows until all of it is written and, if the
// device needs flushes, flushed. Memory changes in this order:
//     1. the stamp into header.pending, then header.submitted = n; after that the device is asked
//        to write the record
//     2. when it is done: its bit in header.landed
//     3. when a window of them is flushed: their stamps into `stamps`, then header.flushed = n,
//        then header.landed = 0
// So at any instant at which no request is half done, each block holds its newest record that is
// flushed or has landed; if a newer one is submitted and has not landed, the block holds either. A
// disk of an earlier moment lacks a record that landed. A disk of a later moment has a record
// that was never submitted. A disk of another clone has other stamps. A disk that lost power holds
// at least all windows before the one that its newest record belongs to.
#pragma once

#include "guest-images/ledger/ledger_format.h"

namespace snapvm::ledger {

inline constexpr std::uint64_t kDiskMagic = 0x314B534952474454ULL;
inline constexpr std::uint64_t kRecordMagic = 0x3144524F43455244ULL;
inline constexpr std::uint64_t kBlockBytes = kPageBytes;
inline constexpr std::uint32_t kDiskWindow = 8;
inline constexpr std::uint64_t kLeastBlocks = 2 * kDiskWindow;

// In memory, at Root::disk. The fields before `submitted` are written once, the magic number last
// of them.
struct DiskHeader {
    std::uint64_t magic;  // 0: the disk is not in use yet
    std::uint64_t id;  // of this ledger; records with another id on the same disk are ignored
    std::uint64_t blocks;  // in use, from the disk's first block on
    std::uint64_t every;  // steps of shard 0 between two records
    std::uint64_t stamps;  // guest address of a word for each block: the stamp of its newest flushed record
    std::uint64_t submitted;  // number of the newest record handed to the device
    std::uint64_t flushed;  // number of the newest record known to be flushed
    std::uint64_t landed;  // bit n % kDiskWindow: record n of those after `flushed` is done
    std::uint64_t pending[kDiskWindow];  // stamps of the records after `flushed`, by n % kDiskWindow
};
static_assert(sizeof(DiskHeader) <= kPageBytes);

// The head of a block on the disk. Payload words and checksum follow, as in a page.
struct RecordHead {
    std::uint64_t magic;
    std::uint64_t id;
    std::uint64_t number;
    std::uint64_t stamp;
    std::uint64_t steps[kMaxShards];  // committed steps when the record was made; shard 0's are number * every
    std::uint64_t reserved[4];
};
static_assert(sizeof(RecordHead) == kHeadWords * 8);

constexpr std::uint64_t record_block(const DiskHeader& disk, std::uint64_t number) {
    return (number - 1) % disk.blocks;
}
// Returns the newest record up to `number` that belongs into a block, 0 if there is none yet.
constexpr std::uint64_t newest_record(const DiskHeader& disk, std::uint64_t block, std::uint64_t number) {
    return block < number ? block + 1 + (number - 1 - block) / disk.blocks * disk.blocks : 0;
}
// Payload word i of a record is record_base + i * kPayloadStep.
constexpr std::uint64_t record_base(const DiskHeader& disk, std::uint64_t number, std::uint64_t stamp) {
    return mix(disk.id ^ page_hash(number, stamp));
}

}  // namespace snapvm::ledger
