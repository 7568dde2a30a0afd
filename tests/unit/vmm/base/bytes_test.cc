// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/bytes.h"

#include <limits>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
    std::vector<std::byte> out;
    for (const int value : values) {
        out.push_back(static_cast<std::byte>(value));
    }
    return out;
}

TEST(Encoder, IsLittleEndianToTheByte) {
    Encoder out;
    out.u8(0x01);
    out.u16(0x0302);
    out.u32(0x07060504);
    out.u64(0x0F0E0D0C0B0A0908);
    EXPECT_EQ(out.take(), bytes_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
}

TEST(Encoder, TextHasItsLengthInFront) {
    Encoder out;
    out.text("ab");
    out.text("");
    EXPECT_EQ(out.take(), bytes_of({2, 0, 0, 0, 'a', 'b', 0, 0, 0, 0}));
}

TEST(Encoder, PadsWithZerosAndNeverShortens) {
    Encoder out;
    out.u8(7);
    out.pad_to(3);
    out.pad_to(2);
    EXPECT_EQ(out.take(), bytes_of({7, 0, 0}));
}

TEST(Decoder, GivesBackTheExtremesOfEveryWidth) {
    Encoder out;
    for (const std::uint64_t value :
         {std::uint64_t{0}, std::numeric_limits<std::uint64_t>::max(), std::uint64_t{1} << 63}) {
        out.u8(static_cast<std::uint8_t>(value));
        out.u16(static_cast<std::uint16_t>(value));
        out.u32(static_cast<std::uint32_t>(value));
        out.u64(value);
        out.boolean(value != 0);
    }
    const auto encoded = out.take();
    Decoder in(encoded);
    for (const std::uint64_t value :
         {std::uint64_t{0}, std::numeric_limits<std::uint64_t>::max(), std::uint64_t{1} << 63}) {
        EXPECT_EQ(in.u8(), static_cast<std::uint8_t>(value));
        EXPECT_EQ(in.u16(), static_cast<std::uint16_t>(value));
        EXPECT_EQ(in.u32(), static_cast<std::uint32_t>(value));
        EXPECT_EQ(in.u64(), value);
        EXPECT_EQ(in.boolean(), value != 0);
    }
    EXPECT_TRUE(ok(in.finish("all")));
}

// Every width, with every number of bytes too few for it.
template <class T>
void expect_refused_when_short() {
    for (std::size_t size = 0; size < sizeof(T); ++size) {
        const std::vector<std::byte> input(size, std::byte{0xFF});
        Decoder in(input);
        EXPECT_EQ(in.get<T>(), 0U) << size << " bytes";
        EXPECT_TRUE(in.bad());
        EXPECT_TRUE(fails(in.finish("thing"), ErrorKind::invalid, "thing is malformed or too short"));
    }
    const std::vector<std::byte> exact(sizeof(T), std::byte{0xFF});
    Decoder in(exact);
    EXPECT_EQ(in.get<T>(), std::numeric_limits<T>::max());
    EXPECT_TRUE(ok(in.finish("thing")));
}

TEST(Decoder, ReadPastTheEndGivesZeroAndIsRemembered) {
    expect_refused_when_short<std::uint8_t>();
    expect_refused_when_short<std::uint16_t>();
    expect_refused_when_short<std::uint32_t>();
    expect_refused_when_short<std::uint64_t>();
}

TEST(Decoder, StaysBadThoughSmallerReadsWouldFit) {
    const auto input = bytes_of({1, 2, 3});
    Decoder in(input);
    EXPECT_EQ(in.u32(), 0U);
    EXPECT_EQ(in.u8(), 0U);
    EXPECT_TRUE(in.take(1).empty());
    EXPECT_FALSE(in.boolean());
    EXPECT_EQ(in.text(10), "");
    EXPECT_TRUE(in.bad());
    EXPECT_FALSE(in.finish("thing"));
}

TEST(Decoder, RefusesLeftovers) {
    const auto input = bytes_of({1, 2, 3});
    Decoder in(input);
    (void)in.u8();
    EXPECT_EQ(in.left(), 2U);
    EXPECT_TRUE(fails(in.finish("thing"), ErrorKind::invalid, "2 bytes too many"));
}

TEST(Decoder, BooleanIsZeroOrOneAndNothingElse) {
    for (int value = 0; value < 256; ++value) {
        const auto input = bytes_of({value});
        Decoder in(input);
        EXPECT_EQ(in.boolean(), value == 1);
        EXPECT_EQ(in.bad(), value > 1) << value;
    }
}

TEST(Decoder, BlobLengthIsCheckedAgainstLimitAndInput) {
    const auto input = bytes_of({3, 0, 0, 0, 'a', 'b', 'c'});
    {
        Decoder in(input);
        EXPECT_EQ(in.text(3), "abc");
        EXPECT_TRUE(ok(in.finish("text")));
    }
    {
        Decoder in(input);
        EXPECT_EQ(in.text(2), "");  // above its limit
        EXPECT_TRUE(in.bad());
    }
    {
        Decoder in{std::span(input).first(6)};  // one byte short of its length
        EXPECT_EQ(in.text(3), "");
        EXPECT_TRUE(in.bad());
    }
    {
        const auto huge = bytes_of({0xFF, 0xFF, 0xFF, 0xFF, 'a'});
        Decoder in(huge);
        EXPECT_TRUE(in.blob(std::numeric_limits<std::size_t>::max()).empty());
        EXPECT_TRUE(in.bad());
    }
}

TEST(Decoder, TakeOfNothingIsFineEvenAtTheEnd) {
    Decoder in({});
    EXPECT_TRUE(in.take(0).empty());
    EXPECT_FALSE(in.bad());
    EXPECT_TRUE(in.take(std::numeric_limits<std::size_t>::max()).empty());
    EXPECT_TRUE(in.bad());
}

}  // namespace
}  // namespace snapvm
