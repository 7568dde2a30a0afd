// SPDX-License-Identifier: Apache-2.0
// The load: what the guest does with a virtio device as fast as it can, at the host's word, for whoever measures (`load=` in README.md).
// Plain little-endian x86-64 layout, no dependencies but ledger_format.h.
//
// The host writes an order, its number last, and sends `l` on the serial line; the guest carries it out, counting in `done` as it goes, and
// writes the number into `finished`. So both can be read from outside at any instant, and say that the guest has executed instructions.
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
    echo = 6,  // sends `size` bytes and waits for as many, `count` times
    frames = 7,  // out of a network interface (load_frame.h)
};

inline constexpr std::uint32_t kLoadPort = 5000;

struct LoadOrder {
    LoadKind kind = LoadKind::none;
    std::uint32_t random = 0;  // of a disk's: places all over it; 0: one after the other
    std::uint64_t size = 0;  // bytes of a request, message or frame
    std::uint64_t count = 0;  // of them
    // Of requests and frames: so many in flight at most, up to kMostInFlight (a disk without indirect descriptors: fewer).
    std::uint32_t depth = 0;
    std::uint32_t batch = 0;  // likewise: so many are to end before the guest looks again, from 1 on
    std::uint64_t seed = 0;
};

// Why it did not do what it was told.
enum class LoadFault : std::uint32_t { none = 0, no_device = 1, no_memory = 2, refused = 3, failed = 4 };

struct Load {
    std::uint64_t magic = 0;  // there once the guest listens
    std::uint64_t region = 0;  // guest address of its memory
    std::uint64_t region_bytes = 0;
    // The host's:
    LoadOrder order;
    std::uint64_t number = 0;  // from 1 on
    // The guest's:
    std::uint64_t finished = 0;  // number of the order that was carried out last
    std::uint64_t done = 0;  // requests of this order so far
    std::uint64_t notifications = 0;  // that it sent for it
    std::uint64_t interrupts = 0;  // that it got meanwhile, ticks and all
    LoadFault fault = LoadFault::none;
    std::uint32_t reserved = 0;
};
static_assert(sizeof(Root) <= 0x800 && sizeof(Load) <= 0x800);

// Where the n-th request of `size` bytes goes, on a disk of `bytes`.
constexpr std::uint64_t load_place(bool random, std::uint64_t seed, std::uint64_t n, std::uint64_t size, std::uint64_t bytes) {
    const std::uint64_t places = bytes / size;
    return (random ? mix(seed * kRandomStep + n) : n) % places * size;
}

}  // namespace snapvm::ledger
