// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/queue.h"

#include "guest-images/ledger/layout.h"
#include "guest-images/ledger/virtio/registers.h"

namespace snapvm::guest::virtio {
namespace {

constexpr u16 kNext = 1, kWrite = 2, kIndirectTable = 4;  // flags of a descriptor
constexpr u16 kNoInterrupt = 1, kNoNotify = 1;  // flags of the available and of the used ring, without event indexes
constexpr u32 kFlags = 0, kIndex = 1, kRing = 2;  // offsets in a ring, in u16

u64 round_up(u64 value, u64 to) { return (value + to - 1) & ~(to - 1); }

// Orders a store to one ring before a load of what the device stored before it looked at that ring.
// This is the one order that x86 does not keep.
void store_before_load() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Returns whether an index that goes from `before` to `now` passes `event` (2.7.10).
bool passes(u16 event, u16 before, u16 now) {
    return static_cast<u16>(now - event - 1) < static_cast<u16>(now - before);
}

}  // namespace

void Queue::set_up(Device& device, u32 index, u32 entries) {
    device_ = &device;
    index_ = index;
    event_index_ = device.has(kEventIndex);
    device.set(kQueueSel, index);
    if (device.get(kQueueReady) != 0) broken(device.type(), "a queue is ready before it is set up");
    const u32 most = device.get(kQueueNumMax);
    if (most == 0) broken(device.type(), "a queue is missing");
    entries_ = entries < kMostEntries ? entries : kMostEntries;
    while (entries_ > most) entries_ /= 2;

    const u64 available = sizeof(Descriptor) * entries_, used = round_up(available + 6 + 2 * entries_, 4);
    const u64 tables = round_up(used + 6 + 8 * entries_, sizeof(Descriptor));
    const u64 bytes = tables + (device.has(kIndirect) ? sizeof(Descriptor) * kMostIndirect * entries_ : 0);
    const u64 base = take_memory(bytes, "no memory for a queue");
    __builtin_memset(reinterpret_cast<void*>(base), 0, bytes);
    descriptors_ = reinterpret_cast<Descriptor*>(base);
    available_ = reinterpret_cast<u16*>(base + available);
    used_ = reinterpret_cast<u16*>(base + used);
    tables_ = device.has(kIndirect) ? reinterpret_cast<Descriptor*>(base + tables) : nullptr;
    next_available_ = submitted_ = next_used_ = 0;
    outstanding_ = 0;
    first_free_ = 0;
    free_ = entries_;
    for (u32 i = 0; i < entries_; ++i) {
        next_[i] = static_cast<u16>(i + 1);
        chains_[i] = {};
    }
    ask_for_none();

    device.set(kQueueNum, entries_);
    const auto place = [&](u32 offset, u64 address) {
        device.set(offset, static_cast<u32>(address));
        device.set(offset + 4, static_cast<u32>(address >> 32));
    };
    place(kQueueDesc, base);
    place(kQueueDriver, base + available);
    place(kQueueDevice, base + used);
    device.set(kQueueReady, 1);
    if (device.get(kQueueReady) != 1) broken(device.type(), "a queue does not get ready");
}

Queue::Descriptor Queue::describe(const Buffer& buffer, bool last, u32 next) {
    const u32 flags = (buffer.device_writes ? kWrite : 0) | (last ? 0 : kNext);
    return {buffer.address, buffer.size, static_cast<u16>(flags), static_cast<u16>(last ? 0 : next)};
}

bool Queue::add(const Buffer* buffers, u32 count, u64 cookie) {
    const bool indirect = tables_ != nullptr && count > 1 && count <= kMostIndirect && count <= entries_;
    const u32 length = indirect ? 1 : count;
    if (length > free_ || length == 0) return false;
    const u16 head = first_free_;
    if (indirect) {
        Descriptor* table = tables_ + head * kMostIndirect;
        for (u32 i = 0; i < count; ++i) table[i] = describe(buffers[i], i + 1 == count, i + 1);
        descriptors_[head] = {reinterpret_cast<u64>(table), static_cast<u32>(count * sizeof(Descriptor)),
                              kIndirectTable, 0};
        first_free_ = next_[head];
    } else {
        for (u32 i = 0; i < count; ++i) {
            descriptors_[first_free_] = describe(buffers[i], i + 1 == count, next_[first_free_]);
            first_free_ = next_[first_free_];
        }
    }
    free_ -= length;
    u64 writable = 0;
    for (u32 i = 0; i < count; ++i) writable += buffers[i].device_writes ? buffers[i].size : 0;
    chains_[head] = {cookie, writable, static_cast<u16>(length)};
    available_[kRing + next_available_++ % entries_] = head;
    ++outstanding_;
    return true;
}

void Queue::submit() {
    const u16 before = submitted_;
    if (before == next_available_) return;
    submitted_ = next_available_;
    publish(available_[kIndex], submitted_);
    store_before_load();
    const bool wanted = event_index_ ? passes(observe(used_[kRing + 4 * entries_]), before, submitted_)
                                     : (observe(used_[kFlags]) & kNoNotify) == 0;
    if (!wanted) return;
    ++notifications_;
    device_->set(kQueueNotify, index_);
}

u16 Queue::ready() const {
    const u16 count = static_cast<u16>(observe(used_[kIndex]) - next_used_);
    if (count > outstanding_) broken(device_->type(), "more is used than was available");
    return count;
}

void Queue::give_back_descriptors(u16 head) {
    u16 last = head;
    for (u32 i = 1; i < chains_[head].length; ++i) last = next_[last];
    next_[last] = first_free_;
    first_free_ = head;
    free_ += chains_[head].length;
}

bool Queue::collect(Used& used) {
    device_->acknowledge();
    if (ready() == 0) return false;
    u32 element[2];
    __builtin_memcpy(element, used_ + kRing + next_used_ % entries_ * 4, sizeof element);
    if (element[0] >= entries_ || chains_[element[0]].length == 0)
        broken(device_->type(), "used what was not available");
    const u16 head = static_cast<u16>(element[0]);
    if (element[1] > chains_[head].writable) broken(device_->type(), "wrote more than there was room for");
    used = {chains_[head].cookie, element[1]};
    give_back_descriptors(head);
    chains_[head].length = 0;
    ++next_used_;
    --outstanding_;
    return true;
}

bool Queue::ask_for_interrupt(u32 count) {
    if (event_index_)
        publish(available_[kRing + entries_], static_cast<u16>(next_used_ + count - 1));
    else
        publish(available_[kFlags], u16{0});
    store_before_load();
    return ready() < count;
}

void Queue::ask_for_none() {
    if (event_index_)
        publish(available_[kRing + entries_], static_cast<u16>(next_used_ - 1));  // 65,535 chains from here
    else
        publish(available_[kFlags], kNoInterrupt);
}

void Queue::wait(u32 count) {
    if (count > outstanding_) count = outstanding_;
    for (;;) {
        const u64 events = self().events;
        device_->acknowledge();
        if (!ask_for_interrupt(count)) break;
        halt(events);
    }
    ask_for_none();
}

}  // namespace snapvm::guest::virtio
