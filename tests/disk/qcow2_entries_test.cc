// SPDX-License-Identifier: Apache-2.0
// Entries of L1 and L2 tables: what each bit means, and which are refused.
#include "devices/disk/qcow2/entries.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"

namespace snapvm::disk {
namespace {

using namespace qcow2;
using test::fails;
using test::need;
using Kind = L2Entry::Kind;

constexpr std::uint32_t kAll = ~0U;

Header image(std::uint32_t cluster_bits = 16, std::uint32_t version = 3, std::uint64_t incompatible = 0) {
    Header header;
    header.cluster_bits = cluster_bits;
    header.version = version;
    header.incompatible = incompatible;
    return header;
}
Header with_subclusters() { return image(16, 3, kExtendedL2); }

// Parses an entry and expects that it encodes to the same words.
L2Entry both_ways(const Header& header, std::uint64_t word, std::uint64_t bitmap = 0) {
    const L2Entry entry = need(parse_l2(header, word, bitmap));
    const L2Words words = encode_l2(header, entry);
    EXPECT_EQ(words.word, word);
    EXPECT_EQ(words.bitmap, bitmap);
    return entry;
}

void expect_refused(const Header& header, std::uint64_t word, std::uint64_t bitmap, std::string_view part) {
    EXPECT_TRUE(fails(parse_l2(header, word, bitmap), ErrorKind::invalid, part)) << std::hex << word << " " << bitmap;
}

TEST(Qcow2Entries, OfAClusterAsAWhole) {
    const Header header = image();
    EXPECT_EQ(both_ways(header, 0), L2Entry{});
    EXPECT_EQ(both_ways(header, 0x50000), (L2Entry{.kind = Kind::data, .offset = 0x50000, .allocated = kAll}));
    EXPECT_EQ(both_ways(header, kCopied | 0x50000),
              (L2Entry{.kind = Kind::data, .copied = true, .offset = 0x50000, .allocated = kAll}));
    EXPECT_EQ(both_ways(header, kReadsZero), (L2Entry{.zero = kAll}));
    EXPECT_EQ(both_ways(header, kCopied | 0x50000 | kReadsZero),
              (L2Entry{.kind = Kind::data, .copied = true, .offset = 0x50000, .zero = kAll}));
    EXPECT_EQ(both_ways(header, 0x00FFFFFFFFFF0000).offset, 0x00FFFFFFFFFF0000U);
    // Without subclusters there is no bitmap, and what its place has does not count.
    EXPECT_EQ(need(parse_l2(header, 0, ~0ULL)), L2Entry{});
}

TEST(Qcow2Entries, OfSubclusters) {
    const Header header = with_subclusters();
    EXPECT_EQ(both_ways(header, 0, 0), L2Entry{});
    EXPECT_EQ(both_ways(header, 0, 0x80000001ULL << 32), (L2Entry{.zero = 0x80000001}));
    EXPECT_EQ(both_ways(header, kCopied | 0x50000, 0x0000FFFE'00000001),
              (L2Entry{.kind = Kind::data, .copied = true, .offset = 0x50000, .allocated = 1, .zero = 0xFFFE}));
    EXPECT_EQ(both_ways(header, 0x50000, 0), (L2Entry{.kind = Kind::data, .offset = 0x50000}));
    EXPECT_EQ(both_ways(header, 0x50000, kAll).allocated, kAll);
}

TEST(Qcow2Entries, OfACompressedCluster) {
    // 62 - (16 - 8) = 54 bits are the offset, and 8 bits count further sectors.
    const L2Entry entry = both_ways(image(), kIsCompressed | 3ULL << 54 | 0x50123);
    EXPECT_EQ(
        entry,
        (L2Entry{.kind = Kind::compressed, .offset = 0x50123, .compressed_size = 4 * 512 - 0x123, .allocated = kAll}));
    EXPECT_EQ(both_ways(image(), kIsCompressed | 255ULL << 54 | 0x50000).compressed_size, 2U << 16);
    // 49 bits for the largest clusters, 61 for the smallest.
    EXPECT_EQ(both_ways(image(21), kIsCompressed | 1ULL << 49 | 0x200000).compressed_size, 1024U);
    EXPECT_EQ(both_ways(image(9), kIsCompressed | 1ULL << 61 | 0x3FF).compressed_size, 1024U - 511);
    // The same with subclusters, whatever the bitmap says.
    EXPECT_EQ(need(parse_l2(with_subclusters(), kIsCompressed | 0x50000, ~0ULL)).allocated, kAll);
    // The flag for writing in place means nothing here.
    EXPECT_FALSE(need(parse_l2(image(), kCopied | kIsCompressed | 0x50000, 0)).copied);
}

TEST(Qcow2Entries, RefusesReservedBits) {
    for (unsigned bit = 0; bit < 62; ++bit) {
        const bool reserved = (bit >= 1 && bit <= 8) || bit >= 56;
        if (reserved) {
            expect_refused(image(), 0x50000 | 1ULL << bit, 0, "reserved bits");
            expect_refused(with_subclusters(), 0x50000 | 1ULL << bit, 1, "reserved bits");
        }
    }
}

TEST(Qcow2Entries, RefusesOffsetsThatAreNotPossible) {
    expect_refused(image(), 0x50200, 0, "not that of a cluster");
    expect_refused(image(21), 0x100000, 0, "not that of a cluster");
    expect_refused(image(), kCopied, 0, "header as data");
    expect_refused(image(), kCopied | kReadsZero, 0, "header as data");
    expect_refused(image(), kIsCompressed, 0, "impossible offset");
    expect_refused(image(), kIsCompressed | 0xFFFF, 0, "impossible offset");
    expect_refused(image(9), kIsCompressed | 1ULL << 56 | 0x400, 0, "impossible offset");
}

TEST(Qcow2Entries, RefusesFlagsThatContradictTheImage) {
    expect_refused(image(16, 2), kReadsZero, 0, "version 2");
    expect_refused(image(16, 2), 0x50000 | kReadsZero, 0, "version 2");
    expect_refused(with_subclusters(), kReadsZero, 0, "flag for zeros");
    expect_refused(with_subclusters(), 0x50000, 0x00000008'00000008, "both allocated and zero");
    expect_refused(with_subclusters(), 0, 1, "without a cluster");
}

TEST(Qcow2Entries, OfL1) {
    const Header header = image();
    EXPECT_EQ(need(parse_l1(header, 0)), 0U);
    EXPECT_EQ(need(parse_l1(header, 0x50000)), 0x50000U);
    EXPECT_EQ(need(parse_l1(header, encode_l1(0x50000))), 0x50000U);
    EXPECT_EQ(encode_l1(0x50000), kCopied | 0x50000);
    EXPECT_EQ(encode_l1(0), 0U);
    EXPECT_TRUE(fails(parse_l1(header, 0x50200), ErrorKind::invalid, "not that of a cluster"));
    for (const unsigned bit : {0U, 8U, 56U, 62U}) {
        EXPECT_TRUE(fails(parse_l1(header, 0x50000 | 1ULL << bit), ErrorKind::invalid, "reserved bits")) << bit;
    }
}

TEST(Qcow2Entries, NumbersAreBigEndian) {
    std::array<std::byte, 10> bytes{};
    store_be64(bytes, 1, 0x0102030405060708);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        EXPECT_EQ(bytes[i], static_cast<std::byte>(i == 9 ? 0 : i));
    }
    EXPECT_EQ(load_be64(bytes, 1), 0x0102030405060708U);
}

}  // namespace
}  // namespace snapvm::disk
