// SPDX-License-Identifier: Apache-2.0
// The load: virtio devices driven as fast as the guest can, at the host's word (load_format.h). First vCPU only.
#pragma once

#include "guest-images/ledger/load_format.h"
#include "guest-images/ledger/options.h"
#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::load {

using ledger::LoadFault;
using ledger::LoadOrder;

// Whether `load=` was given, and so whether there is anything to do for the others here.
bool started();
// Takes its memory and writes into each page, starts the devices that there are, and listens.
void start(const Options& options);
// Looks for what the devices ask of their own accord: the balloon's target, hints, a stream that a restore has cut off.
void serve();
// The host's order, if there is a new one.
void carry_out_order();

// --- for the loads themselves ---

struct Region {
    u64 address;
    u64 bytes;
};
Region region();
// One more request is done.
void count_done();
// What was notified for this order.
void count_notifications(u64 count);

// Each starts its device, if there is one, and carries out an order of its kind.
void start_disk(u64 ring_features);
LoadFault run_disk(const LoadOrder& order);
void start_balloon(u64 ring_features);
void serve_balloon();
// Pages of the region, from its first on, that the balloon has.
u64 ballooned_pages();
void start_net(u64 ring_features);
LoadFault run_net(const LoadOrder& order);
void start_stream(u64 ring_features, u64 receive);  // bytes of a buffer for what comes
void serve_stream();
LoadFault run_stream(const LoadOrder& order);

}  // namespace snapvm::guest::load
