// SPDX-License-Identifier: Apache-2.0
// Guest-physical addresses have a type of their own, so that the compiler rejects a mix with host
// pointers, offsets or sizes.
#pragma once

#include <compare>
#include <cstdint>

#include "vmm/base/align.h"

namespace snapvm {

inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr std::uint64_t kHugePageSize = 2ULL << 20;

/// A guest-physical address, in bytes.
struct Gpa {
    std::uint64_t value = 0;

    friend constexpr auto operator<=>(Gpa, Gpa) = default;
    friend constexpr Gpa operator+(Gpa base, std::uint64_t bytes) { return {base.value + bytes}; }
    friend constexpr std::uint64_t operator-(Gpa end, Gpa start) { return end.value - start.value; }
};

constexpr bool is_page_aligned(std::uint64_t value) { return value % kPageSize == 0; }

}  // namespace snapvm
