// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/balloon.h"

#include "guest-images/ledger/layout.h"

namespace snapvm::guest::virtio {
namespace {

using ledger::kPageBytes;

constexpr u64 kMustTellHost = 1ULL << 0, kFreePageHint = 1ULL << 3;
constexpr u32 kTargetAt = 0, kActualAt = 4, kHintIdAt = 8;  // fields of struct virtio_balloon_config
constexpr u32 kInflate = 0, kDeflate = 1, kHints = 3;  // queues
constexpr u32 kHintStop = 0, kHintDone = 1;  // ids that request no hints
constexpr u64 kHintBytes = 4 << 20;  // of a hinted buffer, as in Linux
constexpr u32 kChains = 64;

void drain(Queue& queue) {
    while (queue.outstanding() != 0) {
        queue.wait(queue.outstanding());
        for (Used used; queue.collect(used);) {
        }
    }
}

}  // namespace

bool Balloon::start(u64 ring_features, u64 address, u64 bytes, bool hints) {
    if (!device_.find(Type::balloon)) return false;
    device_.negotiate(kMustTellHost | (hints ? kFreePageHint : 0) | ring_features);
    first_page_ = address / kPageBytes;
    pages_ = bytes / kPageBytes;
    numbers_ = reinterpret_cast<u32(*)[kNumbers]>(
        take_memory(sizeof(u32) * kNumbers * kChains, "no memory for the balloon's lists"));
    inflate_.set_up(device_, kInflate, kChains);
    deflate_.set_up(device_, kDeflate, kChains);
    if (device_.has(kFreePageHint)) hints_.set_up(device_, kHints, kChains);
    device_.start();
    follow_target();
    return true;
}

void Balloon::serve() {
    if (!device_.take_config_change()) return;
    follow_target();
    if (device_.has(kFreePageHint)) answer_hints();
}

// Sends the numbers of pages [first, end) of the memory through one of the two queues.
void Balloon::tell(Queue& queue, u64 first, u64 end) {
    while (first < end) {
        for (u32 chain = 0; chain < kChains && first < end; ++chain) {
            u32 count = 0;
            for (; count < kNumbers && first < end; ++first)
                numbers_[chain][count++] = static_cast<u32>(first_page_ + first);
            const Buffer buffer{reinterpret_cast<u64>(numbers_[chain]), count * 4, false};
            if (!queue.add(&buffer, 1, chain)) broken(Type::balloon, "a queue has less room than it said");
        }
        queue.submit();
        drain(queue);
    }
}

void Balloon::follow_target() {
    u64 target = device_.config32(kTargetAt);
    if (target > pages_) target = pages_;
    if (target == held_) return;
    if (target > held_)
        tell(inflate_, held_, target);
    else
        tell(deflate_, target, held_);
    held_ = target;
    device_.set_config32(kActualAt, static_cast<u32>(held_));
}

// Sends the id, the free pages, and the stop id. The pages may not be used before the host has
// ended the hinting; the caller ensures that.
void Balloon::answer_hints() {
    const u32 id = device_.config32(kHintIdAt);
    if (id == hint_id_) return;
    hint_id_ = id;
    if (id == kHintStop || id == kHintDone) return;
    const auto put = [this](const Buffer& buffer) {
        while (!hints_.add(&buffer, 1, 0)) {
            hints_.submit();
            drain(hints_);
        }
    };
    put({reinterpret_cast<u64>(&hint_id_), sizeof hint_id_, false});
    const u64 end = (first_page_ + pages_) * kPageBytes;
    for (u64 at = (first_page_ + held_) * kPageBytes; at < end;) {
        const u64 size = end - at < kHintBytes ? end - at : kHintBytes;
        put({at, static_cast<u32>(size), true});
        at += size;
    }
    stop_id_ = kHintStop;
    put({reinterpret_cast<u64>(&stop_id_), sizeof stop_id_, false});
    hints_.submit();
    drain(hints_);
}

}  // namespace snapvm::guest::virtio
