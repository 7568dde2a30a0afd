// SPDX-License-Identifier: Apache-2.0
// What a network interface counts.
#pragma once

#include <cstdint>

namespace snapvm::virtio {

/// Since this process has it. To the guest is received, from the guest is transmitted.
struct NetCounters {
    std::uint64_t received_frames = 0;
    std::uint64_t received_bytes = 0;  ///< without headers of virtio's
    std::uint64_t received_dropped = 0;
    std::uint64_t transmitted_frames = 0;
    std::uint64_t transmitted_bytes = 0;
    std::uint64_t transmitted_dropped = 0;
};

}  // namespace snapvm::virtio
