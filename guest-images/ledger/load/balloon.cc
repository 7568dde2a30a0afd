// SPDX-License-Identifier: Apache-2.0
// A balloon that takes the region's pages, from the first on, and tells of the others as free. Source: virtio 1.2, 5.5.
#include "guest-images/ledger/layout.h"
#include "guest-images/ledger/load/load.h"

namespace snapvm::guest::load {
namespace {

using namespace virtio;

constexpr u64 kMustTellHost = 1ULL << 0, kFreePageHint = 1ULL << 3;
constexpr u32 kTargetAt = 0, kActualAt = 4, kHintIdAt = 8;  // struct virtio_balloon_config
constexpr u32 kInflate = 0, kDeflate = 1, kHints = 3;  // queues
constexpr u32 kHintStop = 0, kHintDone = 1;  // ids that ask for nothing
constexpr u32 kNumbers = 256;  // pages a chain, as Linux has it
constexpr u64 kHintBytes = 4 << 20;  // a buffer, likewise
constexpr u32 kChains = 64;

constinit Device device;
constinit Queue inflate, deflate, hints;
bool there = false;
u32 (*numbers)[kNumbers];  // an array a chain
u64 held = 0;  // pages
u32 hint_id = kHintStop, stop_id = kHintStop;

u64 most_pages() { return region().bytes / ledger::kPageBytes; }

void drain(Queue& queue) {
    while (queue.outstanding() != 0) {
        queue.wait(queue.outstanding());
        for (Used used; queue.collect(used);) {
        }
    }
}

// Pages [first, end) of the region through one of the two queues.
void tell(Queue& queue, u64 first, u64 end) {
    while (first < end) {
        for (u32 chain = 0; chain < kChains && first < end; ++chain) {
            u32 count = 0;
            for (; count < kNumbers && first < end; ++first)
                numbers[chain][count++] = static_cast<u32>(region().address / ledger::kPageBytes + first);
            const Buffer buffer{reinterpret_cast<u64>(numbers[chain]), count * 4, false};
            if (!queue.add(&buffer, 1, chain)) broken(Type::balloon, "a queue has less room than it said");
        }
        queue.submit();
        drain(queue);
    }
}

void follow_target() {
    u64 target = device.config32(kTargetAt);
    if (target > most_pages()) target = most_pages();
    if (target == held) return;
    if (target > held)
        tell(inflate, held, target);
    else
        tell(deflate, target, held);
    held = target;
    device.set_config32(kActualAt, static_cast<u32>(held));
}

// The id, the free pages, and the end. They are not used before the host has said that it is done: no order comes meanwhile.
void answer_hints() {
    const u32 id = device.config32(kHintIdAt);
    if (id == hint_id) return;
    hint_id = id;
    if (id == kHintStop || id == kHintDone) return;
    const auto put = [](const Buffer& buffer) {
        while (!hints.add(&buffer, 1, 0)) {
            hints.submit();
            drain(hints);
        }
    };
    put({reinterpret_cast<u64>(&hint_id), sizeof hint_id, false});
    const u64 end = region().address + region().bytes;
    for (u64 at = region().address + held * ledger::kPageBytes; at < end;) {
        const u64 size = end - at < kHintBytes ? end - at : kHintBytes;
        put({at, static_cast<u32>(size), true});
        at += size;
    }
    put({reinterpret_cast<u64>(&stop_id), sizeof stop_id, false});
    hints.submit();
    drain(hints);
}

}  // namespace

void start_balloon(u64 ring_features) {
    there = device.find(Type::balloon);
    if (!there) return;
    device.negotiate(kMustTellHost | kFreePageHint | ring_features);
    numbers =
        reinterpret_cast<u32(*)[kNumbers]>(take_memory(sizeof(u32) * kNumbers * kChains, "no memory for the balloon's lists"));
    inflate.set_up(device, kInflate, kChains);
    deflate.set_up(device, kDeflate, kChains);
    if (device.has(kFreePageHint)) hints.set_up(device, kHints, kChains);
    device.start();
    follow_target();
}

void serve_balloon() {
    if (!there || !device.take_config_change()) return;
    follow_target();
    if (device.has(kFreePageHint)) answer_hints();
}

u64 ballooned_pages() { return held; }

}  // namespace snapvm::guest::load
