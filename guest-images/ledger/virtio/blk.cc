// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/blk.h"

#include "guest-images/ledger/layout.h"

namespace snapvm::guest::virtio {
namespace {

constexpr u32 kCapacity = 0;  // offset in the configuration space
constexpr u8 kNoStatus = 0xff;
constexpr u32 kMostBuffers = 3;  // in a request

}  // namespace

bool Blk::start(u32 nth, u64 ring_features) {
    if (!device_.find(Type::block, nth)) return false;
    device_.negotiate(ring_features | kReadOnly | kFlush);
    sectors_ = device_.config64(kCapacity);
    queue_.set_up(device_, 0, Queue::kMostEntries);
    slots_ = reinterpret_cast<Slot*>(take_memory(sizeof(Slot) * kMostRequests, "no memory for disk requests"));
    free_count_ = kMostRequests;
    for (u32 i = 0; i < kMostRequests; ++i) free_[i] = static_cast<u8>(i);
    device_.start();
    return true;
}

u32 Blk::most_requests() const {
    const u32 most = queue_.entries() / (device_.has(kIndirect) ? 1 : kMostBuffers);
    return most < kMostRequests ? most : kMostRequests;
}

bool Blk::request(RequestType type, u64 sector, const Buffer& data, u64 cookie) {
    if (free_count_ == 0) return false;
    const u8 number = free_[free_count_ - 1];
    Slot& slot = slots_[number];
    slot.header = {type, 0, sector};
    slot.status = kNoStatus;
    Buffer buffers[kMostBuffers] = {{reinterpret_cast<u64>(&slot.header), sizeof slot.header, false}};
    u32 count = 1;
    if (data.size != 0) buffers[count++] = data;
    buffers[count++] = {reinterpret_cast<u64>(&slot.status), sizeof slot.status, true};
    if (!queue_.add(buffers, count, number)) return false;
    cookies_[number] = cookie;
    --free_count_;
    return true;
}

bool Blk::collect(Done& done) {
    Used used;
    if (!queue_.collect(used)) return false;
    const u8 number = static_cast<u8>(used.cookie);
    done = {cookies_[number], observe(slots_[number].status)};
    if (done.status == kNoStatus) broken(Type::block, "a request is done and has no status");
    free_[free_count_++] = number;
    return true;
}

}  // namespace snapvm::guest::virtio
