// SPDX-License-Identifier: Apache-2.0
// Sends frames out of a network interface, with a fixed number in flight.
#include "guest-images/ledger/virtio/net.h"
#include "guest-images/ledger/load/load.h"
#include "guest-images/ledger/load_frame.h"

namespace snapvm::guest::load {
namespace {

using namespace virtio;
using ledger::kMostInFlight;

static_assert(2 * kMostInFlight <= Queue::kMostEntries);  // a frame takes two descriptors without indirect tables

constinit Net net;
bool there = false;
ledger::FrameHeader header;

}  // namespace

void start_net(u64 ring_features) { there = net.start(Net::kChecksum | Net::kHostTso4 | ring_features, false); }

LoadFault run_net(const LoadOrder& order) {
    if (!there) return LoadFault::no_device;
    if (order.size < ledger::kSmallestFrame || order.size > ledger::kLargestFrame || order.depth == 0 ||
        order.depth > kMostInFlight || (order.size > ledger::kLargestUncutFrame && !net.has(Net::kHostTso4)))
        return LoadFault::refused;
    if (order.size > region().bytes || ballooned_pages() != 0) return LoadFault::no_memory;
    Queue& transmit = net.frames().transmitter();
    header = ledger::make_frame(reinterpret_cast<u8*>(region().address), order.size);
    const u64 notified = transmit.notifications();
    for (u64 begun = 0, done = 0; done < order.count;) {
        for (; begun < order.count && transmit.outstanding() < order.depth; ++begun) {
            const Buffer buffers[] = {{reinterpret_cast<u64>(&header), sizeof header, false},
                                      {region().address, static_cast<u32>(order.size), false}};
            if (!transmit.add(buffers, 2, 0)) broken(Type::net, "a queue has less room than it said");
        }
        transmit.submit();
        transmit.wait(order.batch);
        for (Used used; transmit.collect(used); ++done) count_done();
    }
    count_notifications(transmit.notifications() - notified);
    return LoadFault::none;
}

}  // namespace snapvm::guest::load
