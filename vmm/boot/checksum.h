// SPDX-License-Identifier: Apache-2.0
// The checksum of firmware tables: sets one byte so that the sum of all bytes is zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

namespace snapvm {

inline void set_checksum(std::span<std::byte> bytes, std::size_t at) {
    bytes[at] = std::byte{0};
    const auto sum = std::accumulate(bytes.begin(), bytes.end(), 0U, [](unsigned total, std::byte byte) {
        return total + std::to_integer<unsigned>(byte);
    });
    bytes[at] = std::byte(static_cast<std::uint8_t>(0U - sum));
}

}  // namespace snapvm
