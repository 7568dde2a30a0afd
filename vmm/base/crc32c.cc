// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/crc32c.h"

#include <immintrin.h>

#include <array>
#include <cstring>

namespace snapvm {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;  // bits reflected

constexpr std::array<std::uint32_t, 256> make_byte_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
        }
        table[i] = crc;
    }
    return table;
}
constexpr auto kByteTable = make_byte_table();

// The crc32 instruction has a latency of three cycles and a throughput of one, so three independent
// streams keep the unit busy. A page is three lanes of 1,360 bytes, and 16 bytes remain. To join
// two lanes, a CRC is moved over kLane zero bytes. That is a linear map: four table look-ups.
constexpr std::size_t kLane = 1360;

constexpr std::array<std::array<std::uint32_t, 256>, 4> make_shift_table() {
    std::array<std::array<std::uint32_t, 256>, 4> table{};
    std::array<std::uint32_t, 32> basis{};
    for (int bit = 0; bit < 32; ++bit) {
        std::uint32_t crc = 1U << bit;
        for (std::size_t i = 0; i < kLane; ++i) {
            crc = (crc >> 8) ^ kByteTable[crc & 0xFF];
        }
        basis[bit] = crc;
    }
    for (int byte = 0; byte < 4; ++byte) {
        for (std::uint32_t value = 0; value < 256; ++value) {
            std::uint32_t crc = 0;
            for (int bit = 0; bit < 8; ++bit) {
                if ((value >> bit & 1) != 0) {
                    crc ^= basis[byte * 8 + bit];
                }
            }
            table[byte][value] = crc;
        }
    }
    return table;
}
constexpr auto kShift = make_shift_table();

std::uint32_t shift_over_lane(std::uint32_t crc) {
    return kShift[0][crc & 0xFF] ^ kShift[1][crc >> 8 & 0xFF] ^ kShift[2][crc >> 16 & 0xFF] ^ kShift[3][crc >> 24];
}

std::uint64_t load(const std::byte* from) {
    std::uint64_t value = 0;
    std::memcpy(&value, from, sizeof value);
    return value;
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_sse42(std::span<const std::byte> data, std::uint32_t crc) {
    const std::byte* at = data.data();
    std::size_t left = data.size();
    std::uint64_t a = ~crc;
    while (left >= 3 * kLane) {
        std::uint64_t b = 0;
        std::uint64_t c = 0;
        for (std::size_t i = 0; i < kLane; i += 8) {
            a = _mm_crc32_u64(a, load(at + i));
            b = _mm_crc32_u64(b, load(at + kLane + i));
            c = _mm_crc32_u64(c, load(at + 2 * kLane + i));
        }
        a = shift_over_lane(static_cast<std::uint32_t>(a)) ^ b;
        a = shift_over_lane(static_cast<std::uint32_t>(a)) ^ c;
        at += 3 * kLane;
        left -= 3 * kLane;
    }
    for (; left >= 8; at += 8, left -= 8) {
        a = _mm_crc32_u64(a, load(at));
    }
    auto narrow = static_cast<std::uint32_t>(a);
    for (; left > 0; ++at, --left) {
        narrow = _mm_crc32_u8(narrow, std::to_integer<std::uint8_t>(*at));
    }
    return ~narrow;
}

}  // namespace

std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t crc) {
    crc = ~crc;
    for (const std::byte byte : data) {
        crc = (crc >> 8) ^ kByteTable[(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xFF];
    }
    return ~crc;
}

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t crc) {
    static const bool fast = __builtin_cpu_supports("sse4.2") != 0;
    return fast ? crc32c_sse42(data, crc) : crc32c_portable(data, crc);
}

}  // namespace snapvm
