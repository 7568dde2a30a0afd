// SPDX-License-Identifier: Apache-2.0
// Sizes and durations as people write and read them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// "4096", "64K", "256M", "4G", "1T" (powers of 1,024; lower case too). No sign, no space, no overflow.
Result<std::uint64_t> parse_size(std::string_view text);
/// The largest unit that divides it: 268435456 is "256M".
[[nodiscard]] std::string size_text(std::uint64_t bytes);
/// "250us", "10ms", "60s", "2m"; a bare number is seconds. At most 100 years, so that it can be added to a clock's now().
Result<std::chrono::microseconds> parse_duration(std::string_view text);

}  // namespace snapvm
