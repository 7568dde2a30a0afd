// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/rng.h"

#include "guest-images/ledger/control.h"
#include "guest-images/ledger/layout.h"

namespace snapvm::guest::virtio {
namespace {

constexpr u8 kUntouched = 0xa5;
constexpr u32 kPart = Rng::kBytes / Rng::kRequests;

}  // namespace

bool Rng::start(u64 ring_features) {
    if (!device_.find(Type::entropy)) return false;
    device_.negotiate(ring_features);
    queue_.set_up(device_, 0, 2 * kRequests);
    bytes_ = reinterpret_cast<u8*>(take_memory(kBytes, "no memory for random numbers"));
    device_.start();
    return true;
}

u32 Rng::draw(u8 (&to)[kBytes]) {
    __builtin_memset(bytes_, kUntouched, kBytes);
    for (u32 i = 0; i < kRequests; ++i) {
        const u64 at = reinterpret_cast<u64>(bytes_ + i * kPart);
        const Buffer halves[] = {{at, kPart / 2, true}, {at + kPart / 2, kPart / 2, true}};
        queue_.add(halves, 2, i);
    }
    const u64 interrupts = device_.interrupts();
    queue_.ask_for_interrupt(kRequests);
    queue_.submit();
    wait_for([&] { return device_.interrupts() != interrupts; });
    queue_.wait(kRequests);

    u32 total = 0;
    Used used;
    while (queue_.collect(used)) {
        const u8* part = bytes_ + used.cookie * kPart;
        if (used.written == 0) broken(Type::entropy, "gave nothing");
        for (u32 i = used.written; i < kPart; ++i)
            if (part[i] != kUntouched) broken(Type::entropy, "wrote more than it says");
        __builtin_memcpy(to + total, part, used.written);
        total += used.written;
    }
    if (queue_.outstanding() != 0) broken(Type::entropy, "a request was not answered");
    return total;
}

}  // namespace snapvm::guest::virtio
