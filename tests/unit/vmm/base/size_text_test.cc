// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/size_text.h"

#include <limits>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;

TEST(ParseSize, TakesPlainNumbersAndPowersOf1024) {
    EXPECT_EQ(parse_size("0").value(), 0U);
    EXPECT_EQ(parse_size("4096").value(), 4096U);
    EXPECT_EQ(parse_size("64K").value(), 64ULL << 10);
    EXPECT_EQ(parse_size("256m").value(), 256ULL << 20);
    EXPECT_EQ(parse_size("4G").value(), 4ULL << 30);
    EXPECT_EQ(parse_size("1t").value(), 1ULL << 40);
    for (const char* text : {"512M", "512MB", "512MiB", "512mb", "512mib"}) {
        EXPECT_EQ(parse_size(text).value(), 512ULL << 20) << text;
        EXPECT_EQ(parse_memory_size(text).value(), 512ULL << 20) << text;
    }
    EXPECT_EQ(parse_memory_size("512").value(), 512ULL << 20) << "MiB, as in QEMU";
    EXPECT_TRUE(test::fails(parse_memory_size("99999999999999"), ErrorKind::usage));
}

TEST(ParseSize, GoesToTheLastByteAndNoFurther) {
    EXPECT_EQ(parse_size("18446744073709551615").value(), std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(parse_size("16777215T").value(), 16777215ULL << 40);
    for (const char* text :
         {"18446744073709551616", "16777216T", "18446744073709551615K", "99999999999999999999999999"}) {
        EXPECT_TRUE(test::fails(parse_size(text), ErrorKind::usage)) << text;
    }
}

TEST(ParseSize, RefusesWhatIsNoSize) {
    for (const char* text : {"", " ", "K", "-1", "+1", " 1", "1 ", "1 K", "1KBB", "1Ki", "1KK", "0x10", "1.5G", "1e9",
                             "1P", "1b", "1B", "M1"}) {
        EXPECT_TRUE(test::fails(parse_size(text), ErrorKind::usage)) << '"' << text << '"';
    }
    EXPECT_TRUE(test::fails(parse_size(std::string_view("1\0", 2)), ErrorKind::usage));
}

TEST(SizeText, UsesTheLargestUnitThatDividesIt) {
    EXPECT_EQ(size_text(0), "0");
    EXPECT_EQ(size_text(1023), "1023");
    EXPECT_EQ(size_text(1024), "1K");
    EXPECT_EQ(size_text(268435456), "256M");
    EXPECT_EQ(size_text((1ULL << 30) + 1024), "1048577K");
    EXPECT_EQ(size_text(1ULL << 40), "1T");
    EXPECT_EQ(size_text(1ULL << 50), "1024T");
}

TEST(SizeText, IsReadBackByParseSize) {
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 10, std::uint64_t{5} << 30,
                                     (std::uint64_t{1} << 63), std::numeric_limits<std::uint64_t>::max()}) {
        EXPECT_EQ(parse_size(size_text(size)).value(), size);
    }
}

TEST(CountText, AddsAnSToAllCountsButOne) {
    EXPECT_EQ(count_text(0, "vCPU"), "0 vCPUs");
    EXPECT_EQ(count_text(1, "vCPU"), "1 vCPU");
    EXPECT_EQ(count_text(2, "vCPU"), "2 vCPUs");
}

TEST(ParseDuration, TakesEachUnit) {
    EXPECT_EQ(parse_duration("250us").value(), 250us);
    EXPECT_EQ(parse_duration("10ms").value(), 10ms);
    EXPECT_EQ(parse_duration("60s").value(), 60s);
    EXPECT_EQ(parse_duration("60").value(), 60s);
    EXPECT_EQ(parse_duration("2m").value(), 2min);
    EXPECT_EQ(parse_duration("0").value(), 0us);
}

TEST(ParseDuration, RefusesWhatIsNone) {
    for (const char* text : {"", "s", "-1s", "1 s", "1h", "1S", "1.5s", "1sec", "99999999999999999999s"}) {
        EXPECT_TRUE(test::fails(parse_duration(text), ErrorKind::usage)) << '"' << text << '"';
    }
}

// Callers add it to a clock that counts nanoseconds in 63 bits.
TEST(ParseDuration, WhateverItTakesCanBeAddedToNow) {
    for (const char* text : {"9223372036854775807us", "18446744073709551615us", "9223372036854775us", "9223372036854ms",
                             "9223372036s", "153722867m", "18446744073709551615"}) {
        EXPECT_TRUE(test::fails(parse_duration(text), ErrorKind::usage, "too l")) << text;
    }
    const auto century = parse_duration("3155760000s");
    ASSERT_TRUE(test::ok(century));
    EXPECT_GT(std::chrono::steady_clock::now() + *century, std::chrono::steady_clock::now());
}

}  // namespace
}  // namespace snapvm
