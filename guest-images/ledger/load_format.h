// SPDX-License-Identifier: Apache-2.0
// The load: what the guest does with a virtio device as fast as it can, on orders of a host that
// measures (`load=` in README.md). The layout is plain little-endian x86-64. This header depends on
// ledger_format.h only.
//
// The host writes an order, its number last, and sends `l` on the serial line. The guest carries
// the order out, counts in `done` as it goes, and at the end writes the number into `finished`. The
// host can read both at any instant; a change of them shows that the guest has executed
// instructions.
#pragma once

#include "guest-images/ledger/ledger_format.h"

namespace snapvm::ledger {

inline constexpr std::uint64_t kLoadAddress = kRootAddress + 0x800;  // guest-physical, of the Load
inline constexpr std::uint64_t kLoadMagic = 0x3144414F4C474444ULL;
inline constexpr std::uint32_t kMostInFlight = 128;

enum class LoadKind : std::uint32_t {
    none = 0,
    dirty = 1,  // writes a word into each page of the region
    disk_read = 2,
    disk_write = 3,
    stream_out = 4,  // over vsock, to the host's port kLoadPort
    stream_in = 5,
    echo = 6,  // sends `size` bytes and waits for the same number, `count` times
    frames = 7,  // out of a network interface (load_frame.h)
};

inline constexpr std::uint32_t kLoadPort = 5000;

struct LoadOrder {
    LoadKind kind = LoadKind::none;
    std::uint32_t random = 0;  // for disks: 1: places all over the disk; 0: one after the other
    std::uint64_t size = 0;  // bytes of a request, message or frame
    std::uint64_t count = 0;  // number of requests, messages or frames
    // For requests and frames: at most this many in flight, up to kMostInFlight (fewer on a disk
    // without indirect descriptors).
    std::uint32_t depth = 0;
    std::uint32_t batch = 0;  // for requests and frames: how many end before the guest looks again, from 1 on
    std::uint64_t seed = 0;
};

// Why an order was not carried out.
enum class LoadFault : std::uint32_t { none = 0, no_device = 1, no_memory = 2, refused = 3, failed = 4 };

struct Load {
    std::uint64_t magic = 0;  // set when the guest accepts orders
    std::uint64_t region = 0;  // guest address of the load's memory
    std::uint64_t region_bytes = 0;
    // Written by the host.
    LoadOrder order;
    std::uint64_t number = 0;  // from 1 on
    // Written by the guest.
    std::uint64_t finished = 0;  // number of the order that was carried out last
    std::uint64_t done = 0;  // requests of this order so far
    std::uint64_t notifications = 0;  // notifications sent for this order
    std::uint64_t interrupts = 0;  // interrupts during this order, ticks included
    LoadFault fault = LoadFault::none;
    std::uint32_t reserved = 0;
};
static_assert(sizeof(Root) <= 0x800 && sizeof(Load) <= 0x800);

// Returns the byte at which request n of `size` bytes starts, on a disk of `bytes`.
constexpr std::uint64_t load_place(bool random, std::uint64_t seed, std::uint64_t n, std::uint64_t size,
                                   std::uint64_t bytes) {
    const std::uint64_t places = bytes / size;
    return (random ? mix(seed * kRandomStep + n) : n) % places * size;
}

}  // namespace snapvm::ledger
