// SPDX-License-Identifier: Apache-2.0
// Numbers of an image, which are big endian.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace snapvm::disk::qcow2 {

/// Returns the number at `offset`. All its bytes must be there.
template <std::unsigned_integral Number>
Number load_be(std::span<const std::byte> bytes, std::size_t offset) {
    static_assert(std::endian::native == std::endian::little);
    Number value{};
    std::memcpy(&value, bytes.subspan(offset, sizeof value).data(), sizeof value);
    return std::byteswap(value);
}

/// Stores the number at `offset`. There must be room for it.
template <std::unsigned_integral Number>
void store_be(std::span<std::byte> bytes, std::size_t offset, Number value) {
    value = std::byteswap(value);
    std::memcpy(bytes.subspan(offset, sizeof value).data(), &value, sizeof value);
}

inline std::uint64_t load_be64(std::span<const std::byte> bytes, std::size_t offset) {
    return load_be<std::uint64_t>(bytes, offset);
}
inline void store_be64(std::span<std::byte> bytes, std::size_t offset, std::uint64_t value) {
    store_be<std::uint64_t>(bytes, offset, value);
}

}  // namespace snapvm::disk::qcow2
