// SPDX-License-Identifier: Apache-2.0
// Checks a ledger (ledger_format.h) at one instant. The guest itself uses it, and so does a host,
// over a snapshot's memory.
//
// A Reader is callable with a page-aligned guest-physical address and returns `const void*`: 4,096
// readable bytes that stay valid and unchanged during the check, or nullptr if there is no such
// page. No contents are trusted: a corrupt root is a finding. The checks allocate nothing, throw
// nothing and keep no state, so different shards may be checked in parallel.
#pragma once

#include "guest-images/ledger/ledger_format.h"

namespace snapvm::ledger {

enum class Fault : std::uint32_t {
    none,
    unreadable,
    root,
    not_ready,
    header,
    steps,
    random,
    intent,
    sum,
    generations,
    seen,
    index,
    page_head,
    page_generation,
    page_step,
    page_seen,
    payload,
    checksum,
    dup_page,
    zero_page,
    registers,
    clock,
    stir,
    stirred,
    // Faults of the disk (ledger_disk_verify.h).
    disk_header,
    disk_unreadable,
    disk_record,
    disk_stamp,
    disk_payload,
    disk_steps,
};

constexpr const char* name(Fault fault) {
    constexpr const char* names[] = {
        "none",        "unreadable",      "root",        "not_ready",   "header",       "steps",
        "random",      "intent",          "sum",         "generations", "seen",         "index",
        "page_head",   "page_generation", "page_step",   "page_seen",   "payload",      "checksum",
        "dup_page",    "zero_page",       "registers",   "clock",       "stir",         "stirred",
        "disk_header", "disk_unreadable", "disk_record", "disk_stamp",  "disk_payload", "disk_steps",
    };
    return names[static_cast<std::uint32_t>(fault)];
}
constexpr bool is_of_disk(Fault fault) { return fault >= Fault::disk_header; }

// The first fault found. `page` is the page's global number, for disk faults the block's, ~0 if the
// fault concerns none. For `stir`, `expected` and `found` are a page's word; for `stirred` they are
// the least and the found count of writes.
struct Finding {
    Fault fault = Fault::none;
    std::uint32_t shard = 0;
    std::uint64_t page = ~0ULL;
    std::uint64_t expected = 0;
    std::uint64_t found = 0;
    constexpr explicit operator bool() const { return fault != Fault::none; }
};

namespace detail {

template <typename Reader>
const std::uint64_t* words_at(Reader& read, std::uint64_t address) {
    if (address == 0 || address % kPageBytes != 0) return nullptr;
    return static_cast<const std::uint64_t*>(read(address));
}

// Returns whether words [from, to) are base + i * kPayloadStep, and puts their sum into `sum`. The
// loop has no branches, so that it vectorises.
inline bool payload_matches(const std::uint64_t* words, std::uint32_t from, std::uint32_t to, std::uint64_t base,
                            std::uint64_t* sum) {
    std::uint64_t different = 0, total = 0, expected = base + from * kPayloadStep;
    for (std::uint32_t i = from; i < to; ++i) {
        different |= words[i] ^ expected;
        total += words[i];
        expected += kPayloadStep;
    }
    *sum = total;
    return different == 0;
}

inline bool all_zero(const std::uint64_t* words) {
    std::uint64_t any = 0;
    for (std::uint32_t i = 0; i < kPageWords; ++i) any |= words[i];
    return any == 0;
}

inline Finding check_live_page(const Root& root, std::uint32_t shard, std::uint64_t page, std::uint64_t generation,
                               const std::uint64_t* words, const std::uint64_t* steps, std::uint64_t newest_step) {
    PageHead head;
    __builtin_memcpy(&head, words, sizeof head);
    const auto bad = [&](Fault fault, std::uint64_t expected, std::uint64_t found) {
        return Finding{fault, shard, page, expected, found};
    };
    if (head.magic != kPageMagic) return bad(Fault::page_head, kPageMagic, head.magic);
    if (head.page != page) return bad(Fault::page_head, page, head.page);
    if (head.shard != shard) return bad(Fault::page_head, shard, head.shard);
    if (head.generation != generation) return bad(Fault::page_generation, generation, head.generation);
    std::uint64_t sum = 0;
    if (!payload_matches(words, kHeadWords, kPageWords - 1, payload_base(root.seed, page, generation), &sum))
        return bad(Fault::payload, generation, 0);
    const std::uint64_t checksum = page_checksum(words, sum);
    if (checksum != words[kPageWords - 1]) return bad(Fault::checksum, checksum, words[kPageWords - 1]);
    if (head.step > newest_step) return bad(Fault::page_step, newest_step, head.step);
    for (std::uint32_t t = 0; t < root.shards; ++t)
        if (t != shard && head.seen[t] > steps[t]) return bad(Fault::page_seen, steps[t], head.seen[t]);
    return {};
}

// Checks a shard's share of the stirred region, from `address` on. The first pages hold words of
// one sweep, the others words of the sweep before. `header_count` is the count of writes in the
// shard's header.
template <typename Reader>
Finding check_stir(std::uint32_t shard, std::uint64_t address, std::uint64_t pages, std::uint64_t header_count,
                   Reader& read) {
    const auto bad = [shard](Fault fault, std::uint64_t expected, std::uint64_t found) {
        return Finding{fault, shard, ~0ULL, expected, found};
    };
    std::uint64_t sweep = 0, position = 0;  // writes before the sweep under way, writes in it
    for (std::uint64_t i = 0; i < pages; ++i) {
        const std::uint64_t* words = words_at(read, address + i * kPageBytes);
        if (words == nullptr) return bad(Fault::unreadable, address + i * kPageBytes, 0);
        const std::uint64_t word = words[0];
        if (i == 0) {
            if (word != 0 && (word - 1) % pages != 0) return bad(Fault::stir, word - (word - 1) % pages, word);
            sweep = word == 0 ? 0 : word - 1;
        }
        if (position == i && word == sweep + i + 1) {
            ++position;
            continue;
        }
        const std::uint64_t older = sweep == 0 ? 0 : sweep - pages + i + 1;
        if (word != older) return bad(Fault::stir, older, word);
    }
    const std::uint64_t count = sweep + position;
    if (count < header_count || count > header_count + kStirBurst) return bad(Fault::stirred, header_count, count);
    return {};
}

}  // namespace detail

// Checks the root page: magic, version, bounds, checksum.
inline Finding verify_root(const Root& root) {
    const auto bad = [](std::uint64_t expected, std::uint64_t found) {
        return Finding{Fault::root, 0, ~0ULL, expected, found};
    };
    if (root.magic != kRootMagic) return bad(kRootMagic, root.magic);
    if (root.version != kVersion) return bad(kVersion, root.version);
    if (root.state == State::setting_up) return Finding{Fault::not_ready, 0, ~0ULL, 1, 0};
    const std::uint64_t checksum = root_checksum(root);
    if (root.checksum != checksum) return bad(checksum, root.checksum);
    if (root.shards == 0 || root.shards > kMaxShards) return bad(kMaxShards, root.shards);
    if (root.segment_count > kMaxSegments) return bad(kMaxSegments, root.segment_count);
    if (root.zero_percent > 100 || root.dup_percent > 100 - root.zero_percent) return bad(100, root.zero_percent);
    if (root.stir_pages != 0 && (root.stir_pages < root.shards || root.stir_pages > ~0ULL / kPageBytes / kMaxShards))
        return bad(root.shards, root.stir_pages);
    return {};
}

// Checks one shard against `steps`, the committed steps of every shard at the same instant.
template <typename Reader>
Finding verify_shard(const Root& root, std::uint32_t shard, const std::uint64_t* steps, Reader&& read) {
    const auto bad = [shard](Fault fault, std::uint64_t expected, std::uint64_t found, std::uint64_t page = ~0ULL) {
        return Finding{fault, shard, page, expected, found};
    };
    const std::uint64_t* words = detail::words_at(read, header_address(root, shard));
    if (words == nullptr) return bad(Fault::unreadable, header_address(root, shard), 0);
    ShardHeader header;
    __builtin_memcpy(&header, words, sizeof header);
    if (header.magic != kHeaderMagic) return bad(Fault::header, kHeaderMagic, header.magic);
    if (header.shard != shard) return bad(Fault::header, shard, header.shard);
    if (header.steps != steps[shard]) return bad(Fault::steps, steps[shard], header.steps);
    const bool in_flight = header.intent.step == header.steps + 1;
    if (!in_flight && header.intent.step != header.steps) return bad(Fault::intent, header.steps, header.intent.step);
    if (in_flight && header.intent.new_generation != header.intent.old_generation + 1)
        return bad(Fault::intent, header.intent.old_generation + 1, header.intent.new_generation);
    for (std::uint32_t t = 0; t < root.shards; ++t)
        if (t != shard && header.seen[t] > steps[t]) return bad(Fault::seen, steps[t], header.seen[t]);
    if (header.register_faults != 0) return bad(Fault::registers, 0, header.register_faults);
    if (header.clock_backwards != 0) return bad(Fault::clock, 0, header.clock_backwards);

    std::uint64_t sum = 0, generations = 0, index_page = 0;
    const std::uint64_t* index = nullptr;
    bool index_is_new = false;
    const std::uint64_t pages = shard_pages(root, shard);
    for (std::uint64_t local = 0; local < pages; ++local) {
        const std::uint64_t page = local_to_page(root, shard, local);
        const std::uint64_t* content = detail::words_at(read, page_address(root, page));
        if (content == nullptr) return bad(Fault::unreadable, page_address(root, page), 0, page);
        const std::uint64_t entry = index_address(root, shard, local);
        if (const std::uint64_t base = entry & ~(kPageBytes - 1); index == nullptr || base != index_page) {
            index = detail::words_at(read, base);
            index_page = base;
            if (index == nullptr) return bad(Fault::unreadable, base, 0, page);
        }
        const std::uint64_t generation = index[entry % kPageBytes / 8];
        const PageKind kind = page_kind(root, local);
        if (kind != PageKind::live) {
            std::uint64_t ignored;
            if (generation != 0) return bad(Fault::index, 0, generation, page);
            if (kind == PageKind::zero && !detail::all_zero(content)) return bad(Fault::zero_page, 0, 1, page);
            if (kind == PageKind::dup &&
                !detail::payload_matches(content, 0, kPageWords, dup_base(root.seed), &ignored))
                return bad(Fault::dup_page, 0, 1, page);
            continue;
        }
        sum += page_hash(page, generation);
        generations += generation;
        if (in_flight && local == header.intent.page) {
            index_is_new = generation == header.intent.new_generation;
            if (!index_is_new && generation != header.intent.old_generation)
                return bad(Fault::index, header.intent.old_generation, generation, page);
            if (!index_is_new) continue;  // this page may hold anything: it is being rewritten
        }
        const std::uint64_t newest = in_flight && local == header.intent.page ? header.steps + 1 : header.steps;
        if (const Finding f = detail::check_live_page(root, shard, page, generation, content, steps, newest)) return f;
    }
    // Every step raises one generation by one. The index is written before the sum, and the sum
    // before the generator's state.
    const std::uint64_t committed = header.steps + (index_is_new ? 1 : 0);
    if (live_pages(root, shard) != 0 && generations != committed)
        return bad(Fault::generations, committed, generations);
    if (header.sum != sum) {
        const std::uint64_t page = local_to_page(root, shard, header.intent.page);
        const std::uint64_t before =
            sum - page_hash(page, header.intent.new_generation) + page_hash(page, header.intent.old_generation);
        if (!index_is_new || header.sum != before) return bad(Fault::sum, sum, header.sum);
    }
    const std::uint64_t random = initial_random(root.seed, shard) + header.steps * kRandomStep;
    const bool may_be_ahead = in_flight && (index_is_new || live_pages(root, shard) == 0) && header.sum == sum;
    if (header.random != random && !(may_be_ahead && header.random == random + kRandomStep))
        return bad(Fault::random, random, header.random);
    return detail::check_stir(shard, root.stir + stir_first(root, shard) * kPageBytes, stir_share(root, shard),
                              header.stirred, read);
}

// Checks the whole ledger: the root, then every shard. Puts the sum of committed steps into
// `total_steps` unless that is null.
template <typename Reader>
Finding verify(Reader&& read, std::uint64_t* total_steps = nullptr) {
    const void* page = read(kRootAddress);
    if (page == nullptr) return Finding{Fault::unreadable, 0, ~0ULL, kRootAddress, 0};
    Root root;
    __builtin_memcpy(&root, page, sizeof root);
    if (const Finding f = verify_root(root)) return f;
    std::uint64_t steps[kMaxShards] = {}, total = 0;
    for (std::uint32_t s = 0; s < root.shards; ++s) {
        const std::uint64_t* words = detail::words_at(read, header_address(root, s));
        if (words == nullptr) return Finding{Fault::unreadable, s, ~0ULL, header_address(root, s), 0};
        steps[s] = words[offsetof(ShardHeader, steps) / 8];
        total += steps[s];
    }
    if (total_steps != nullptr) *total_steps = total;
    for (std::uint32_t s = 0; s < root.shards; ++s)
        if (const Finding f = verify_shard(root, s, steps, read)) return f;
    return {};
}

}  // namespace snapvm::ledger
