// SPDX-License-Identifier: Apache-2.0
// The worker process of scenario `trackers`, which has the guest and its tracker.
#pragma once

#include <span>
#include <string>

#include "vmm/base/error.h"

namespace snapvm::bench {

/// Serves requests. The arguments are the first members of LiveGuest in order. Prints "ready", then
/// for each line on stdin tracks the guest once and answers with a line of NAME=NUMBER.
Result<int> serve_trackers(std::span<const std::string> arguments);

}  // namespace snapvm::bench
