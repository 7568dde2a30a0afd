// SPDX-License-Identifier: Apache-2.0
// The guest's options, from its command line (README.md lists them). Unknown words are ignored:
// they may be meant for other programs.
#pragma once

#include "guest-images/ledger/virtio/device.h"

namespace snapvm::guest {

enum class Pattern : u32 { sequential, random, hot };

struct Options {
    u64 working_set = 64 << 20;
    bool working_set_given = false;
    u64 gap = 0;
    u32 cpus = 0;  // 0: the MADT's number
    u32 hz = 100;
    u64 rate = 1000;
    u64 steps = 0;
    Pattern pattern = Pattern::random;
    u64 hot_set = 256;
    u32 zero_percent = 0;
    u32 dup_percent = 0;
    u64 seed = 1;
    u64 seen_every = 16;
    u64 stir = 0;
    u64 stir_rate = 0;
    bool beat = false;
    bool quiet = false;
    bool paused = false;
    u64 ring_features = virtio::kEventIndex | virtio::kIndirect;
    bool disk = false;
    u64 disk_size = 1 << 20;
    u64 disk_every = 1;
    u64 balloon = 0;
    bool echo = false;
    u64 load = 0;
    u64 load_rx = 64 << 10;
};

// Ends the guest if a value is not valid.
Options parse_options(const char* command_line);

}  // namespace snapvm::guest
