// SPDX-License-Identifier: Apache-2.0
// Reads and writes of a disk, so many in flight. Source: virtio 1.2, 5.2.
#include "guest-images/ledger/load/load.h"

namespace snapvm::guest::load {
namespace {

using namespace virtio;
using ledger::kMostInFlight;

constexpr u32 kIn = 0, kOut = 1;  // types of a request, 5.2.6
constexpr u64 kFlush = 1ULL << 9;  // without this feature each write would be flushed
constexpr u64 kSector = 512;
constexpr u32 kBuffers = 3;  // of a request

struct Header {
    u32 type;
    u32 reserved;
    u64 sector;
};

constinit Device device;
constinit Queue queue;
bool there = false;
u64 disk_bytes = 0;
Header headers[kMostInFlight];
u8 statuses[kMostInFlight];

void add(const LoadOrder& order, u32 slot, u64 n) {
    const bool in = order.kind == ledger::LoadKind::disk_read;
    headers[slot] = {in ? kIn : kOut, 0, ledger::load_place(order.random != 0, order.seed, n, order.size, disk_bytes) / kSector};
    statuses[slot] = 0xff;
    const Buffer buffers[] = {{reinterpret_cast<u64>(&headers[slot]), sizeof(Header), false},
                              {region().address + slot * order.size, static_cast<u32>(order.size), in},
                              {reinterpret_cast<u64>(&statuses[slot]), 1, true}};
    if (!queue.add(buffers, kBuffers, slot)) broken(Type::block, "a queue has less room than it said");
}

u32 most_in_flight() {
    const u32 most = queue.entries() / (device.has(kIndirect) ? 1 : kBuffers);
    return most < kMostInFlight ? most : kMostInFlight;
}

}  // namespace

void start_disk(u64 ring_features) {
    there = device.find(Type::block);
    if (!there) return;
    device.negotiate(kFlush | ring_features);
    disk_bytes = device.config64(0) * kSector;
    queue.set_up(device, 0, Queue::kMostEntries);
    device.start();
}

LoadFault run_disk(const LoadOrder& order) {
    if (!there) return LoadFault::no_device;
    if (order.depth == 0 || order.depth > most_in_flight() || order.size == 0 || order.size % kSector != 0 ||
        order.size > disk_bytes)
        return LoadFault::refused;
    if (order.size > region().bytes / order.depth || ballooned_pages() != 0) return LoadFault::no_memory;
    u32 free[kMostInFlight];
    u32 free_count = 0;
    for (u32 slot = 0; slot < order.depth; ++slot) free[free_count++] = slot;
    const u64 notified = queue.notifications();
    bool good = true;
    for (u64 begun = 0, done = 0; done < order.count;) {
        while (begun < order.count && free_count != 0) add(order, free[--free_count], begun++);
        queue.submit();
        queue.wait(order.batch);
        for (Used used; queue.collect(used); ++done) {
            const u32 slot = static_cast<u32>(used.cookie);
            good = good && observe(statuses[slot]) == 0;
            free[free_count++] = slot;
            count_done();
        }
    }
    count_notifications(queue.notifications() - notified);
    return good ? LoadFault::none : LoadFault::failed;
}

}  // namespace snapvm::guest::load
