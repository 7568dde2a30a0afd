// SPDX-License-Identifier: Apache-2.0
// Multiples of a size.
#pragma once

#include <cstdint>

namespace snapvm {

/// Returns the next multiple of `to` from `value` on. Wraps around near the largest number.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; }
/// Returns the last multiple of `to` up to `value`.
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t to) { return value / to * to; }

}  // namespace snapvm
