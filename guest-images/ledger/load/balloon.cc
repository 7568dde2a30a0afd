// SPDX-License-Identifier: Apache-2.0
// A balloon over the region; what it does not hold is told as free.
#include "guest-images/ledger/load/load.h"
#include "guest-images/ledger/virtio/balloon.h"

namespace snapvm::guest::load {
namespace {

constinit virtio::Balloon balloon;
bool there = false;

}  // namespace

void start_balloon(u64 ring_features) { there = balloon.start(ring_features, region().address, region().bytes, true); }

// Hinted pages are not used meanwhile: no order comes before the host has said that it is done.
void serve_balloon() {
    if (there) balloon.serve();
}

u64 ballooned_pages() { return balloon.held(); }

}  // namespace snapvm::guest::load
