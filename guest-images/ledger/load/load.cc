// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/load/load.h"

#include "guest-images/ledger/layout.h"

namespace snapvm::guest::load {
namespace {

using ledger::Load;
using ledger::LoadKind;

constexpr u64 kLargePage = 2 << 20;

extern "C" {
[[gnu::section(".root.load"), gnu::used]] constinit Load ledger_load = {};  // at ledger::kLoadAddress (ledger.ld)
}

// Writes a word into each page. No word is zero, and no two are equal.
LoadFault dirty(u64 seed) {
    if (ballooned_pages() != 0) return LoadFault::refused;
    for (u64 at = ledger_load.region; at < ledger_load.region + ledger_load.region_bytes; at += ledger::kPageBytes)
        *reinterpret_cast<volatile u64*>(at) = at + (seed << 48) + 1;
    return LoadFault::none;
}

LoadFault carry_out(const LoadOrder& order) {
    switch (order.kind) {
        case LoadKind::dirty: return dirty(order.seed);
        case LoadKind::disk_read:
        case LoadKind::disk_write: return run_disk(order);
        case LoadKind::frames: return run_net(order);
        case LoadKind::stream_out:
        case LoadKind::stream_in:
        case LoadKind::echo: return run_stream(order);
        default: return LoadFault::refused;
    }
}

}  // namespace

bool started() { return ledger_load.magic != 0; }

void start(const Options& options) {
    const u64 bytes = (options.load + kLargePage - 1) & ~(kLargePage - 1);
    // The region consists of whole large pages, as an operating system would free them.
    const u64 base = take_memory(bytes + kLargePage, "load does not fit the memory in one piece");
    ledger_load.region = (base + kLargePage - 1) & ~(kLargePage - 1);
    ledger_load.region_bytes = bytes;
    dirty(0);
    start_disk(options.ring_features);
    start_balloon(options.ring_features);
    start_net(options.ring_features);
    start_stream(options.ring_features, options.load_rx);
    publish(ledger_load.magic, ledger::kLoadMagic);
}

void serve() {
    serve_balloon();
    serve_stream();
}

void carry_out_order() {
    const u64 number = observe(ledger_load.number);
    if (!started() || number == ledger_load.finished) return;
    const LoadOrder order = ledger_load.order;
    const u64 interrupts = self().events;
    ledger_load.done = ledger_load.notifications = 0;
    ledger_load.fault = carry_out(order);
    ledger_load.interrupts = self().events - interrupts;
    publish(ledger_load.finished, number);
}

Region region() { return {ledger_load.region, ledger_load.region_bytes}; }
void count_done() { publish(ledger_load.done, ledger_load.done + 1); }
void count_notifications(u64 count) { ledger_load.notifications += count; }

}  // namespace snapvm::guest::load
