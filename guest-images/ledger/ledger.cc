// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/ledger.h"

namespace snapvm::guest {
namespace {

using namespace snapvm::ledger;

// XMM15 is set aside (-ffixed-xmm15). Its low half follows the shard's sum, its high half the
// committed steps. The values stay in the register for as long as the guest runs, so that the next
// step notices an FPU state that was not restored.
struct Running {
    u64 sum, steps;
};
void set_running(Running value) { asm volatile("movdqu %0, %%xmm15" : : "m"(value)); }
void add_running(Running value) {
    asm volatile("movdqu %0, %%xmm14\n\tpaddq %%xmm14, %%xmm15" : : "m"(value) : "xmm14");
}
Running running() {
    Running value;
    asm volatile("movdqu %%xmm15, %0" : "=m"(value));
    return value;
}

u64* page_words(u64 page) { return reinterpret_cast<u64*>(page_address(ledger_root, page)); }
u64& index_entry(u32 shard, u64 local) { return *reinterpret_cast<u64*>(index_address(ledger_root, shard, local)); }

u64 write_payload(u64* words, u32 from, u32 to, u64 base) {
    u64 sum = 0, value = base + from * kPayloadStep;
    for (u32 i = from; i < to; ++i) {
        words[i] = value;
        sum += value;
        value += kPayloadStep;
    }
    return sum;
}

void write_live_page(u32 shard, u64 page, u64 generation, u64 at_step, const u64* seen) {
    u64* words = page_words(page);
    PageHead head = {kPageMagic, page, shard, generation, at_step, {}, {}};
    for (u32 t = 0; t < kMaxShards; ++t) head.seen[t] = seen[t];
    __builtin_memcpy(words, &head, sizeof head);
    const u64 sum = write_payload(words, kHeadWords, kPageWords - 1, payload_base(ledger_root.seed, page, generation));
    u64 head_words[kHeadWords];
    __builtin_memcpy(head_words, &head, sizeof head);
    publish(words[kPageWords - 1], page_checksum(head_words, sum));
}

u64 choose(const ShardHeader& header, u64 live, const Options& options) {
    const auto below = [](u64 random, u64 n) {
        return static_cast<u64>(static_cast<unsigned __int128>(random) * n >> 64);
    };
    if (options.pattern == Pattern::sequential) return header.steps % live;
    const u64 random = mix(header.random);
    if (options.pattern == Pattern::random) return below(random, live);
    const u64 hot = options.hot_set != 0 && options.hot_set < live ? options.hot_set : live;
    return below(mix(random), random % 10 != 0 ? hot : live);
}

void look_at_others(ShardHeader& header, u32 shard) {
    for (u32 t = 0; t < ledger_root.shards; ++t)
        if (t != shard) header.seen[t] = committed_steps(t);
}

}  // namespace

ShardHeader& shard_header(u32 shard) { return *reinterpret_cast<ShardHeader*>(header_address(ledger_root, shard)); }
u64 committed_steps(u32 shard) { return observe(shard_header(shard).steps); }
u64 total_steps() {
    u64 total = 0;
    for (u32 s = 0; s < ledger_root.shards; ++s) total += committed_steps(s);
    return total;
}

void initialise_shard(u32 shard) {
    const Root& root = ledger_root;
    ShardHeader& header = shard_header(shard);
    header = {};
    const u64 pages = shard_pages(root, shard);
    for (u64 local = 0; local < pages; ++local) {
        const u64 page = local_to_page(root, shard, local);
        index_entry(shard, local) = 0;
        switch (page_kind(root, local)) {
            case PageKind::live:
                write_live_page(shard, page, 0, 0, header.seen);
                header.sum += page_hash(page, 0);
                break;
            case PageKind::dup: write_payload(page_words(page), 0, kPageWords, dup_base(root.seed)); break;
            case PageKind::zero: __builtin_memset(page_words(page), 0, kPageBytes); break;
        }
    }
    header.shard = shard;
    header.random = initial_random(root.seed, shard);
    header.magic = kHeaderMagic;
    set_running({header.sum, 0});
}

void seal_root() {
    ledger_root.checksum = root_checksum(ledger_root);
    publish(ledger_root.state, State::ready);
}

void step(u32 shard, const Options& options) {
    const Root& root = ledger_root;
    ShardHeader& header = shard_header(shard);
    const u64 live = live_pages(root, shard), next = header.steps + 1;
    u64 delta = 0;
    if (live != 0) {
        const u64 local = live_page(root, choose(header, live, options)), page = local_to_page(root, shard, local);
        const u64 generation = index_entry(shard, local);
        header.intent.page = local;
        header.intent.old_generation = generation;
        header.intent.new_generation = generation + 1;
        publish(header.intent.step, next);
        if (next % options.seen_every == 0) look_at_others(header, shard);
        asm volatile("" : : : "memory");
        write_live_page(shard, page, generation + 1, next, header.seen);
        publish(index_entry(shard, local), generation + 1);
        delta = page_hash(page, generation + 1) - page_hash(page, generation);
        publish(header.sum, header.sum + delta);
    } else {
        header.intent.new_generation = header.intent.old_generation + 1;
        publish(header.intent.step, next);
    }
    publish(header.random, header.random + kRandomStep);
    publish(header.steps, next);
    add_running({delta, 1});
    const Running now = running();
    if (now.sum != header.sum || now.steps != header.steps) {
        ++header.register_faults;
        set_running({header.sum, header.steps});
    }
}

void stir(u32 shard) {
    const Root& root = ledger_root;
    u64& stirred = shard_header(shard).stirred;
    const u64 share = stir_share(root, shard), first = root.stir + stir_first(root, shard) * kPageBytes;
    u64 count = stirred, page = count % share;
    for (const u64 end = count + kStirBurst; count < end;) {
        publish(*reinterpret_cast<u64*>(first + page * kPageBytes), ++count);
        page = page + 1 == share ? 0 : page + 1;
    }
    publish(stirred, count);
}

ledger::Finding check_shard(u32 shard) {
    // XMM15 belongs to this shard, because each vCPU checks its own shard.
    const Running now = running();
    const ShardHeader& header = shard_header(shard);
    if (now.sum != header.sum) return {Fault::registers, shard, ~0ULL, header.sum, now.sum};
    if (now.steps != header.steps) return {Fault::registers, shard, ~0ULL, header.steps, now.steps};
    u64 steps[kMaxShards] = {};
    for (u32 s = 0; s < ledger_root.shards; ++s) steps[s] = committed_steps(s);
    return verify_shard(ledger_root, shard, steps, [](u64 address) { return reinterpret_cast<const void*>(address); });
}

}  // namespace snapvm::guest
