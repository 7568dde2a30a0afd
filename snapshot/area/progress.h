// SPDX-License-Identifier: Apache-2.0
// Reports the progress of a long operation.
#pragma once

#include <cstdint>
#include <functional>

namespace snapvm {

/// Called now and then on the thread of the operation, with the amount done so far and the total.
using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

}  // namespace snapvm
