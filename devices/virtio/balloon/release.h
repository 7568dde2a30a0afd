// SPDX-License-Identifier: Apache-2.0
// Has the balloon take memory that the guest has free, for `snapvm snapshot --release-free`.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "devices/virtio/balloon/balloon.h"
#include "vmm/base/error.h"

namespace snapvm::virtio {

/// Calls `what` with the lock of the balloon's transport held.
using BalloonAccess = std::function<void(const std::function<void(Balloon&)>& what)>;

/// How long release_free() waits for the guest.
struct ReleaseLimits {
    std::chrono::milliseconds answer{1'000};    ///< until it reports its free memory
    std::chrono::milliseconds progress{1'000};  ///< until its balloon grows again
    std::chrono::milliseconds all{60'000};      ///< in total, while it grows
};

/// Has the guest put free memory into its balloon, at most `max_bytes` bytes, and returns by how
/// many bytes the balloon has grown. The guest reports what is free (5.5.6.3, or by hints if it has
/// no statistics); page cache does not count. A reserve stays with it: 1/32 of its memory, at least
/// 16 MiB (at most a quarter of its memory), and half of what is free if it would not deflate on
/// out-of-memory. A guest that was shrinking its balloon keeps the rest in there meanwhile. Returns
/// 0 at once if there is no driver or nothing is free, and less than asked for if the guest stops
/// half way.
///
/// Calls `check_cancelled` now and then; after its error the guest gets everything back. Otherwise
/// the caller must call Balloon::give_back.
Result<std::uint64_t> release_free(const BalloonAccess& access, std::uint64_t max_bytes,
                                   const std::function<Status()>& check_cancelled, const ReleaseLimits& limits = {});

}  // namespace snapvm::virtio
