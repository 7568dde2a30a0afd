// SPDX-License-Identifier: Apache-2.0
// What the ledger guest keeps in its memory, for the guest and for programs that read its memory
// from outside (a snapshot, a mapping). The layout is plain little-endian x86-64. This header has
// no dependencies. ledger_verify.h checks the contents.
//
// A root page at kRootAddress names everything else. Working-set pages are numbered 0 to pages - 1;
// page p belongs to shard p % shards and is that shard's page number p / shards (its local number).
// Each shard is written by one vCPU alone.
//
// Why any mix of two moments is found. One update of a shard makes these stores in this order. They
// are release stores and x86 keeps the order of a CPU's stores, so every other CPU, and memory at
// any instant, sees a prefix of them:
//     1. header.intent: page, generations, then intent.step = steps + 1     (arms the intent)
//     2. every K steps: header.seen[t] = steps of each other shard t, as just read
//     3. the page: head (with header.seen and the step), payload, checksum last
//     4. the page's entry in the index = new generation
//     5. header.sum, then header.random            (of all pages' hash(page, generation))
//     6. header.steps = steps + 1                                           (commits)
// So at any instant at most the page of an armed, uncommitted intent differs from its index entry,
// or the index from the sum. A stale page contradicts its index entry. A stale index entry
// contradicts its page. Both together contradict the sum. A stale header contradicts the index or
// its own intent. A whole shard that is older than the others contradicts what these have seen of
// it: seen[t] was read after shard t had committed that step, and stored after it was read, so at
// no instant is seen[t] > steps of t.
//
// Besides the ledger there may be a stirred region (option `stir=`), with a contiguous share for
// each shard. The vCPU writes the pages of its share one after the other, sweep after sweep: its
// write number n, from 0, puts n + 1 into the first word of page n % share. So one number, the
// count of writes, determines the share's contents at any instant. A page that lacks its newest
// write holds a word that is one sweep too small among its neighbours. header.stirred follows the
// count, at most kStirBurst behind.
#pragma once

#include <cstddef>
#include <cstdint>

namespace snapvm::ledger {

inline constexpr std::uint64_t kRootAddress = 0x100000;  // guest-physical
inline constexpr std::uint64_t kRootMagic = 0x31544F4F5244474CULL;  // "LGDROOT1"
inline constexpr std::uint64_t kHeaderMagic = 0x3144524148534744ULL;
inline constexpr std::uint64_t kPageMagic = 0x3145474150474445ULL;
inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint32_t kMaxShards = 8;
inline constexpr std::uint32_t kMaxSegments = 16;
inline constexpr std::uint32_t kPageWords = 512;
inline constexpr std::uint32_t kHeadWords = 16;
inline constexpr std::uint64_t kStirBurst = 256;

// A run of working-set pages: page first_page + i is at base + i * stride.
struct Segment {
    std::uint64_t first_page;
    std::uint64_t pages;
    std::uint64_t base;
    std::uint64_t stride;
};

enum class State : std::uint32_t { setting_up = 0, ready = 1, finished = 2 };

// The root page, at kRootAddress. Everything before `checksum` is written before the state becomes
// ready, and never after that.
struct Root {
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t shards;
    std::uint64_t pages;
    std::uint64_t seed;
    std::uint32_t zero_percent;
    std::uint32_t dup_percent;
    std::uint64_t headers;  // guest address of ShardHeader[shards], one page for each
    std::uint64_t index;  // guest address of the generations: shards arrays of pages_per_shard words
    std::uint64_t pages_per_shard;  // the largest shard's number of pages
    std::uint32_t segment_count;
    std::uint32_t reserved;
    Segment segments[kMaxSegments];
    std::uint64_t stir;  // guest address of the stirred region
    std::uint64_t stir_pages;  // 0: there is none
    std::uint64_t disk;  // guest address of the DiskHeader (ledger_disk_format.h); 0: there is no disk
    std::uint64_t checksum;  // of the words before it
    State state;
};
static_assert(sizeof(Root) <= kPageBytes);
static_assert(offsetof(Root, checksum) % 8 == 0);

struct Intent {
    std::uint64_t page;  // local number
    std::uint64_t old_generation;
    std::uint64_t new_generation;
    std::uint64_t step;  // steps + 1: this update is in progress; steps: none is
};

struct ShardHeader {
    std::uint64_t magic;
    std::uint64_t shard;
    std::uint64_t steps;  // committed steps
    std::uint64_t sum;  // of page_hash over the shard's live pages, modulo 2^64
    std::uint64_t random;  // state of the generator: initial_random + steps * kRandomStep
    Intent intent;
    std::uint64_t seen[kMaxShards];  // committed steps of the other shards, as last read by this one
    std::uint64_t stirred;  // number of writes to the stirred share; up to kStirBurst more may have been made
    // What this vCPU counted. These fields are not part of the ledger.
    std::uint64_t ticks;
    std::uint64_t register_faults;  // times that XMM15 did not hold what was put there
    std::uint64_t clock_backwards;  // always 0: the guest counts these faults in PerCpu (cpu.h)
    std::uint64_t kvmclock_ns;  // newest reading
};
static_assert(sizeof(ShardHeader) <= kPageBytes);

enum class PageKind : std::uint32_t { live = 0, dup = 1, zero = 2 };

// The head of a live page. Payload words and the checksum follow.
struct PageHead {
    std::uint64_t magic;
    std::uint64_t page;  // global number
    std::uint64_t shard;
    std::uint64_t generation;
    std::uint64_t step;  // step of the shard that wrote the page; 0 at the start
    std::uint64_t seen[kMaxShards];
    std::uint64_t reserved[3];
};
static_assert(sizeof(PageHead) == kHeadWords * 8);

inline constexpr std::uint64_t kRandomStep = 0x9E3779B97F4A7C15ULL;
inline constexpr std::uint64_t kPayloadStep = 0xD1B54A32D192ED03ULL;

constexpr std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}
constexpr std::uint64_t page_hash(std::uint64_t page, std::uint64_t generation) {
    return mix(mix(page + kRandomStep) + generation);
}
// Payload word i of a live page is payload_base + i * kPayloadStep. Word i of a dup page is
// dup_base + i * kPayloadStep.
constexpr std::uint64_t payload_base(std::uint64_t seed, std::uint64_t page, std::uint64_t generation) {
    return mix(seed ^ page_hash(page, generation));
}
constexpr std::uint64_t dup_base(std::uint64_t seed) { return mix(seed ^ kPageMagic); }
constexpr std::uint64_t initial_random(std::uint64_t seed, std::uint64_t shard) { return mix(seed + shard + 1); }

// Returns the kind of a local page. Kinds are interleaved: of each 100 local pages the first
// zero_percent are zero, the next dup_percent are dup.
constexpr PageKind page_kind(const Root& root, std::uint64_t local) {
    const std::uint64_t r = local % 100;
    if (r < root.zero_percent) return PageKind::zero;
    return r < root.zero_percent + root.dup_percent ? PageKind::dup : PageKind::live;
}
constexpr std::uint64_t shard_pages(const Root& root, std::uint32_t shard) {
    return (root.pages + root.shards - 1 - shard) / root.shards;
}
constexpr std::uint64_t live_pages(const Root& root, std::uint32_t shard) {
    const std::uint64_t n = shard_pages(root, shard), others = root.zero_percent + root.dup_percent, rest = n % 100;
    return n / 100 * (100 - others) + (rest > others ? rest - others : 0);
}
// Returns the local number of the shard's n-th live page.
constexpr std::uint64_t live_page(const Root& root, std::uint64_t n) {
    const std::uint64_t others = root.zero_percent + root.dup_percent, live = 100 - others;
    return n / live * 100 + others + n % live;
}
// Returns the first page of a shard's share of the stirred region. The share ends where the next
// shard's begins.
constexpr std::uint64_t stir_first(const Root& root, std::uint32_t shard) {
    return root.stir_pages * shard / root.shards;
}
constexpr std::uint64_t stir_share(const Root& root, std::uint32_t shard) {
    return stir_first(root, shard + 1) - stir_first(root, shard);
}
// Returns the guest address of a page, 0 if no segment has it.
constexpr std::uint64_t page_address(const Root& root, std::uint64_t page) {
    for (std::uint32_t i = 0; i < root.segment_count && i < kMaxSegments; ++i) {
        const Segment& s = root.segments[i];
        if (page - s.first_page < s.pages) return s.base + (page - s.first_page) * s.stride;
    }
    return 0;
}
constexpr std::uint64_t header_address(const Root& root, std::uint32_t shard) {
    return root.headers + shard * kPageBytes;
}
constexpr std::uint64_t index_address(const Root& root, std::uint32_t shard, std::uint64_t local) {
    return root.index + (shard * root.pages_per_shard + local) * 8;
}
constexpr std::uint64_t local_to_page(const Root& root, std::uint32_t shard, std::uint64_t local) {
    return local * root.shards + shard;
}
inline std::uint64_t root_checksum(const Root& root) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < offsetof(Root, checksum) / 8; ++i) {
        std::uint64_t word;
        __builtin_memcpy(&word, reinterpret_cast<const unsigned char*>(&root) + i * 8, 8);
        sum = mix(sum ^ word);
    }
    return sum;
}
// Returns the checksum of a live page, from its head words and the sum of its payload words.
inline std::uint64_t page_checksum(const std::uint64_t* head, std::uint64_t payload_sum) {
    std::uint64_t sum = payload_sum;
    for (std::uint32_t i = 0; i < kHeadWords; ++i) sum = (sum ^ head[i]) * kRandomStep + (sum >> 29);
    return mix(sum);
}

}  // namespace snapvm::ledger
