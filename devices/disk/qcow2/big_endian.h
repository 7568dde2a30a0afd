// SPDX-License-Identifier: Apache-2.0
// Numbers of an image, which are big endian.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace snapvm::disk::qcow2 {

/// Returns the number at `offset`. All its bytes must be there.
template <std::unsigned_integral Number>
Number load_be(std::span<const std::byte> bytes, std::size_t offset) {
    std::uint64_t value = 0;
    for (const std::byte one : bytes.subspan(offset, sizeof(Number))) {
        value = value << 8 | std::to_integer<std::uint64_t>(one);
    }
    return static_cast<Number>(value);
}

/// Stores the number at `offset`. There must be room for it.
template <std::unsigned_integral Number>
void store_be(std::span<std::byte> bytes, std::size_t offset, Number value) {
    std::uint64_t rest = value;
    for (std::size_t i = sizeof(Number); i > 0; --i, rest >>= 8) {
        bytes[offset + i - 1] = static_cast<std::byte>(rest);
    }
}

inline std::uint64_t load_be64(std::span<const std::byte> bytes, std::size_t offset) {
    return load_be<std::uint64_t>(bytes, offset);
}
inline void store_be64(std::span<std::byte> bytes, std::size_t offset, std::uint64_t value) {
    store_be<std::uint64_t>(bytes, offset, value);
}

}  // namespace snapvm::disk::qcow2
