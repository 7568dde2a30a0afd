// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/crc32c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

namespace snapvm {
namespace {

using Checksum = std::uint32_t (*)(std::span<const std::byte>, std::uint32_t);

class Crc32cVectors : public ::testing::TestWithParam<Checksum> {
protected:
    static std::uint32_t of(std::span<const std::uint8_t> data) { return GetParam()(std::as_bytes(data), 0); }
};

// RFC 3720, appendix B.4. It prints the bytes of each CRC in the order in which they are sent:
// lowest first.
TEST_P(Crc32cVectors, OfRfc3720) {
    std::vector<std::uint8_t> data(32, 0);
    EXPECT_EQ(of(data), 0x8A9136AAU);
    std::ranges::fill(data, 0xFF);
    EXPECT_EQ(of(data), 0x62A8AB43U);
    std::iota(data.begin(), data.end(), 0);
    EXPECT_EQ(of(data), 0x46DD794EU);
    std::ranges::reverse(data);
    EXPECT_EQ(of(data), 0x113FDB5CU);

    // An iSCSI READ (10) command.
    std::vector<std::uint8_t> command(48, 0);
    command[0] = 0x01;
    command[1] = 0xC0;
    command[16] = 0x14;
    command[22] = 0x04;
    command[27] = 0x14;
    command[31] = 0x18;
    command[32] = 0x28;
    command[40] = 0x02;
    EXPECT_EQ(of(command), 0xD9963A56U);
}

TEST_P(Crc32cVectors, CheckValueAndNothing) {
    constexpr std::string_view kCheck = "123456789";
    EXPECT_EQ(GetParam()(std::as_bytes(std::span(kCheck)), 0), 0xE3069283U);
    EXPECT_EQ(of({}), 0U);
}

INSTANTIATE_TEST_SUITE_P(Both, Crc32cVectors, ::testing::Values(&crc32c, &crc32c_portable),
                         [](const auto& instance) { return instance.index == 0 ? "Fast" : "Portable"; });

std::vector<std::byte> noise(std::size_t size) {
    std::mt19937_64 random(3720);
    std::vector<std::byte> data(size);
    std::ranges::generate(data, [&] { return static_cast<std::byte>(random()); });
    return data;
}

// The three-lane loop, its joins and its rests: lengths on both sides of two passes of it, from an
// odd address too.
TEST(Crc32c, AgreesWithTheTableAtEveryLength) {
    const auto data = noise(9001);
    for (std::size_t size = 0; size <= 9000; ++size) {
        const auto part = std::span(data).subspan(size % 2, size);
        ASSERT_EQ(crc32c(part), crc32c_portable(part)) << size;
    }
}

TEST(Crc32c, ChainsAtEveryCut) {
    const auto data = noise(4200);
    const std::uint32_t whole = crc32c_portable(data);
    for (std::size_t cut = 0; cut <= data.size(); ++cut) {
        const auto front = std::span(data).first(cut);
        const auto back = std::span(data).subspan(cut);
        ASSERT_EQ(crc32c(back, crc32c(front)), whole) << cut;
    }
}

TEST(Crc32c, SeesEveryFlippedBitOfAPage) {
    auto page = noise(4096);
    const std::uint32_t before = crc32c(page);
    for (std::size_t bit = 0; bit < page.size() * 8; ++bit) {
        page[bit / 8] ^= std::byte{1} << (bit % 8);
        ASSERT_NE(crc32c(page), before) << bit;
        page[bit / 8] ^= std::byte{1} << (bit % 8);
    }
}

}  // namespace
}  // namespace snapvm
