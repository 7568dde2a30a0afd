// SPDX-License-Identifier: Apache-2.0
// The load's balloon takes pages of the region. What it does not hold is reported as free if the
// host asks for hints.
#include "guest-images/ledger/virtio/balloon.h"
#include "guest-images/ledger/load/load.h"

namespace snapvm::guest::load {
namespace {

constinit virtio::Balloon balloon;
bool there = false;

}  // namespace

void start_balloon(u64 ring_features) { there = balloon.start(ring_features, region().address, region().bytes, true); }

// The guest does not use hinted pages meanwhile: the host sends no order before it has ended the
// hinting.
void serve_balloon() {
    if (there) balloon.serve();
}

u64 ballooned_pages() { return balloon.held(); }

}  // namespace snapvm::guest::load
