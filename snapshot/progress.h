// SPDX-License-Identifier: Apache-2.0
// How far something long is, for whoever watches.
#pragma once

#include <cstdint>
#include <functional>

namespace snapvm {

/// Called now and then, on the caller's thread, with what is done and what there is to do in all; the last time with both the same.
using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

}  // namespace snapvm
