// SPDX-License-Identifier: Apache-2.0
// Memory that the guest has free already, taken by its balloon for a while: `snapvm snapshot --release-free`.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "devices/virtio/balloon/balloon.h"
#include "vmm/base/error.h"

namespace snapvm::virtio {

/// Runs what it is given with the lock of the balloon's transport held.
using BalloonAccess = std::function<void(const std::function<void(Balloon&)>& what)>;

/// How long a guest is waited for.
struct ReleaseLimits {
    std::chrono::milliseconds answer{1'000};    ///< until it says what it has free
    std::chrono::milliseconds progress{1'000};  ///< until its balloon holds some more
    std::chrono::milliseconds all{60'000};      ///< for as long as that goes on
};

/// Has the guest put what it has free into its balloon, `most` bytes at most; how many bytes it then holds more. What is free it says
/// itself (5.5.6.3, or by hints where it tells no statistics); page cache does not count. A reserve stays: 1/32 of its memory, 16 MiB at
/// least (a quarter of a small guest's), and half of what is free where it would not take memory back by itself when it runs short.
/// A guest that was giving memory out of its balloon keeps what is left in there for as long. Returns at once where nobody drives the
/// balloon, or nothing is free; with what it has got when the guest stops half way.
///
/// `go_on` is asked now and then; with its error the guest has everything back. Else Balloon::give_back is the caller's to call.
Result<std::uint64_t> release_free(const BalloonAccess& access, std::uint64_t most, const std::function<Status()>& go_on,
                                   const ReleaseLimits& limits = {});

}  // namespace snapvm::virtio
