// SPDX-License-Identifier: Apache-2.0
// Reads and writes a disk, with a fixed number of requests in flight.
#include "guest-images/ledger/load/load.h"
#include "guest-images/ledger/virtio/blk.h"

namespace snapvm::guest::load {
namespace {

using virtio::Blk;

constinit Blk blk;
bool there = false;

u64 disk_bytes() { return blk.sectors() * Blk::kSectorBytes; }

void add(const LoadOrder& order, u32 slot, u64 n) {
    const u64 sector =
        ledger::load_place(order.random != 0, order.seed, n, order.size, disk_bytes()) / Blk::kSectorBytes;
    const u64 address = region().address + slot * order.size;
    const u32 size = static_cast<u32>(order.size);
    const bool in = order.kind == ledger::LoadKind::disk_read;
    if (!(in ? blk.read(sector, address, size, slot) : blk.write(sector, address, size, slot)))
        virtio::broken(virtio::Type::block, "a queue has less room than it said");
}

}  // namespace

void start_disk(u64 ring_features) { there = blk.start(0, ring_features); }

LoadFault run_disk(const LoadOrder& order) {
    if (!there) return LoadFault::no_device;
    if (order.depth == 0 || order.depth > blk.most_requests() || order.size == 0 ||
        order.size % Blk::kSectorBytes != 0 || order.size > disk_bytes())
        return LoadFault::refused;
    if (order.size > region().bytes / order.depth || ballooned_pages() != 0) return LoadFault::no_memory;
    u32 free[Blk::kMostRequests];
    u32 free_count = 0;
    for (u32 slot = 0; slot < order.depth; ++slot) free[free_count++] = slot;
    const u64 notified = blk.queue().notifications();
    bool good = true;
    for (u64 begun = 0, done = 0; done < order.count;) {
        while (begun < order.count && free_count != 0) add(order, free[--free_count], begun++);
        blk.submit();
        blk.queue().wait(order.batch);
        for (Blk::Done one; blk.collect(one); ++done) {
            good = good && one.status == Blk::kOk;
            free[free_count++] = static_cast<u32>(one.cookie);
            count_done();
        }
    }
    count_notifications(blk.queue().notifications() - notified);
    return good ? LoadFault::none : LoadFault::failed;
}

}  // namespace snapvm::guest::load
