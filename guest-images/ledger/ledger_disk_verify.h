// SPDX-License-Identifier: Apache-2.0
// Compares the ledger's disk with its memory (ledger_disk_format.h) at one instant at which no
// request is half done. The guest itself uses it, and so does a host, over a snapshot's memory and
// the disk that belongs to it.
#pragma once

#include "guest-images/ledger/ledger_disk_format.h"
#include "guest-images/ledger/ledger_verify.h"

namespace snapvm::ledger {
namespace detail {

inline Finding check_record(const DiskHeader& disk, std::uint64_t block, std::uint64_t number, std::uint64_t stamp,
                            const std::uint64_t* steps, std::uint32_t shards, const std::uint64_t* words) {
    RecordHead head;
    __builtin_memcpy(&head, words, sizeof head);
    const auto bad = [block](Fault fault, std::uint64_t expected, std::uint64_t found, std::uint32_t shard = 0) {
        return Finding{fault, shard, block, expected, found};
    };
    if (head.number != number) return bad(Fault::disk_record, number, head.number);
    if (head.stamp != stamp) return bad(Fault::disk_stamp, stamp, head.stamp);
    std::uint64_t sum = 0;
    if (!payload_matches(words, kHeadWords, kPageWords - 1, record_base(disk, number, stamp), &sum))
        return bad(Fault::disk_payload, number, 0);
    const std::uint64_t checksum = page_checksum(words, sum);
    if (words[kPageWords - 1] != checksum) return bad(Fault::disk_payload, checksum, words[kPageWords - 1]);
    if (head.steps[0] != number * disk.every) return bad(Fault::disk_steps, number * disk.every, head.steps[0]);
    for (std::uint32_t t = 0; t < shards; ++t)
        if (head.steps[t] > steps[t]) return bad(Fault::disk_steps, steps[t], head.steps[t], t);
    return {};
}

inline Finding check_disk_header(const DiskHeader& disk, std::uint64_t steps) {
    const auto bad = [](std::uint64_t expected, std::uint64_t found) {
        return Finding{Fault::disk_header, 0, ~0ULL, expected, found};
    };
    if (disk.magic != kDiskMagic) return bad(kDiskMagic, disk.magic);
    if (disk.blocks < kLeastBlocks || disk.blocks > 1ULL << 32) return bad(kLeastBlocks, disk.blocks);
    if (disk.every == 0) return bad(1, 0);
    if (disk.flushed > disk.submitted || disk.submitted - disk.flushed > kDiskWindow)
        return bad(disk.flushed, disk.submitted);
    // A record is submitted right after the step at which it is due.
    const std::uint64_t due = steps / disk.every;
    if (disk.submitted != due && disk.submitted + 1 != due) return bad(due, disk.submitted);
    return {};
}

}  // namespace detail

// `read` is a Reader as in ledger_verify.h. `read_block` is callable with a block's number and
// returns its 4,096 bytes, or nullptr. Returns no finding if the ledger has no disk, or has not
// started to use it yet.
template <typename Reader, typename BlockReader>
Finding verify_disk(Reader&& read, BlockReader&& read_block) {
    const std::uint64_t* words = detail::words_at(read, kRootAddress);
    if (words == nullptr) return {Fault::unreadable, 0, ~0ULL, kRootAddress, 0};
    Root root;
    __builtin_memcpy(&root, words, sizeof root);
    if (const Finding f = verify_root(root)) return f;
    if (root.disk == 0) return {};
    words = detail::words_at(read, root.disk);
    if (words == nullptr) return {Fault::unreadable, 0, ~0ULL, root.disk, 0};
    DiskHeader disk;
    __builtin_memcpy(&disk, words, sizeof disk);
    if (disk.magic == 0) return {};
    std::uint64_t steps[kMaxShards] = {};
    for (std::uint32_t s = 0; s < root.shards; ++s) {
        words = detail::words_at(read, header_address(root, s));
        if (words == nullptr) return {Fault::unreadable, s, ~0ULL, header_address(root, s), 0};
        steps[s] = words[offsetof(ShardHeader, steps) / 8];
    }
    if (const Finding f = detail::check_disk_header(disk, steps[0])) return f;

    for (std::uint64_t block = 0; block < disk.blocks; ++block) {
        const std::uint64_t entry = disk.stamps + block * 8;
        const std::uint64_t* stamps = detail::words_at(read, entry & ~(kPageBytes - 1));
        if (stamps == nullptr) return {Fault::unreadable, 0, ~0ULL, entry, 0};
        const std::uint64_t stamp = stamps[entry % kPageBytes / 8];
        words = static_cast<const std::uint64_t*>(read_block(block));
        if (words == nullptr) return {Fault::disk_unreadable, 0, block, 0, 0};
        RecordHead head;
        __builtin_memcpy(&head, words, sizeof head);
        const std::uint64_t found = head.magic == kRecordMagic && head.id == disk.id ? head.number : 0;
        std::uint64_t expected = newest_record(disk, block, disk.submitted);
        const bool in_window = expected > disk.flushed;
        const bool may_be_older = in_window && (disk.landed >> expected % kDiskWindow & 1) == 0 && found != expected;
        if (may_be_older) expected = newest_record(disk, block, disk.flushed);
        if (found != expected) return {Fault::disk_record, 0, block, expected, found};
        if (expected == 0) continue;
        const std::uint64_t stamp_due = in_window && !may_be_older ? disk.pending[expected % kDiskWindow] : stamp;
        if (const Finding f = detail::check_record(disk, block, expected, stamp_due, steps, root.shards, words))
            return f;
    }
    return {};
}

}  // namespace snapvm::ledger
