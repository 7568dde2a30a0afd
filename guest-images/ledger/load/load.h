// SPDX-License-Identifier: Apache-2.0
// The load drives virtio devices as fast as the guest can, on orders of the host (load_format.h).
// Only the first vCPU calls this.
#pragma once

#include "guest-images/ledger/load_format.h"
#include "guest-images/ledger/options.h"
#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::load {

using ledger::LoadFault;
using ledger::LoadOrder;

// Returns whether `load=` was given. The other functions here do nothing useful without it.
bool started();
// Takes the load's memory, writes into each page, starts the devices that exist, and accepts orders
// from then on.
void start(const Options& options);
// Handles what the devices ask without an order: the balloon's target, hints, a stream that a
// restore has ended.
void serve();
// Carries out the host's order, if there is a new one.
void carry_out_order();

// --- for the loads themselves ---

struct Region {
    u64 address;
    u64 bytes;
};
Region region();
// Counts one more request as done.
void count_done();
// Adds the notifications that were sent for this order.
void count_notifications(u64 count);

// Each start function starts its device, if there is one. Each run function carries out an order of
// its kind.
void start_disk(u64 ring_features);
LoadFault run_disk(const LoadOrder& order);
void start_balloon(u64 ring_features);
void serve_balloon();
// Returns how many pages of the region the balloon holds, from the first page on.
u64 ballooned_pages();
void start_net(u64 ring_features);
LoadFault run_net(const LoadOrder& order);
void start_stream(u64 ring_features, u64 receive);  // `receive`: bytes of a receive buffer
void serve_stream();
LoadFault run_stream(const LoadOrder& order);

}  // namespace snapvm::guest::load
