// SPDX-License-Identifier: Apache-2.0
// Parses and prints sizes, durations and counts.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// Parses a size in bytes: "4096", "64K", "256M", "4G", "1T" (powers of 1,024, lower case too, with
/// "B" or "iB" behind them if one likes). Fails with usage on a sign, a space or an overflow.
Result<std::uint64_t> parse_size(std::string_view text);
/// Likewise for the memory of a guest, of which a number without a unit is MiB, as in QEMU.
Result<std::uint64_t> parse_memory_size(std::string_view text);
/// Prints a size with the largest unit that divides it: 268435456 is "256M".
[[nodiscard]] std::string size_text(std::uint64_t bytes);
/// Prints a count of things: "1 vCPU", "2 vCPUs". The plural of `thing` ends in s.
[[nodiscard]] std::string count_text(std::uint64_t count, std::string_view thing);
/// Parses a duration: "250us", "10ms", "60s", "2m". A number without a unit is seconds. Fails with
/// usage if it exceeds 100 years, so that a clock's now() plus a duration does not overflow.
Result<std::chrono::microseconds> parse_duration(std::string_view text);

}  // namespace snapvm
