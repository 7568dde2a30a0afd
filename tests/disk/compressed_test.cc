// SPDX-License-Identifier: Apache-2.0
// Compressed clusters: good ones, damaged ones and bombs.
#include "devices/disk/qcow2/compressed.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/support/compressed_bytes.h"
#include "tests/support/result_matchers.h"

namespace snapvm::disk {
namespace {

using namespace qcow2;
using test::deflated;
using test::fails;
using test::ok;
using test::zstd;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kCluster = 1 << 16;
constexpr const char* kName = "disk a (/a)";

// Bytes that compress, but not to nothing.
Bytes text(std::size_t size, unsigned seed = 1) {
    std::minstd_rand random(seed);
    Bytes bytes(size);
    for (std::byte& one : bytes) {
        one = static_cast<std::byte>('a' + random() % 8);
    }
    return bytes;
}

Bytes packed(Compression compression, const Bytes& bytes) {
    return compression == Compression::zstd ? zstd(bytes) : deflated(bytes, -12);
}

class Compressed : public ::testing::TestWithParam<Compression> {
protected:
    static Status expand_into(Bytes& cluster, const Bytes& bytes) { return expand(GetParam(), bytes, cluster, kName); }
    static ::testing::AssertionResult refused(const Bytes& bytes, std::size_t size = kCluster) {
        Bytes cluster(size);
        return fails(expand_into(cluster, bytes), ErrorKind::invalid, "disk a (/a) has a compressed cluster");
    }
};
INSTANTIATE_TEST_SUITE_P(All, Compressed, ::testing::Values(Compression::zlib, Compression::zstd),
                         [](const auto& one) { return one.param == Compression::zstd ? "Zstd" : "Zlib"; });

TEST_P(Compressed, IsExpanded) {
    for (const std::size_t size : {std::size_t{512}, kCluster, std::size_t{2} << 20}) {
        for (const Bytes& bytes : {text(size), Bytes(size)}) {
            Bytes cluster(size, std::byte{0xEE});
            EXPECT_TRUE(ok(expand_into(cluster, packed(GetParam(), bytes))));
            EXPECT_TRUE(cluster == bytes);
        }
    }
}

TEST_P(Compressed, IgnoresWhatFollows) {
    Bytes bytes = packed(GetParam(), text(kCluster));
    for (const int following : {0x00, 0xFF, 0x28}) {
        Bytes longer = bytes;
        longer.resize(bytes.size() + 700, static_cast<std::byte>(following));
        Bytes cluster(kCluster);
        EXPECT_TRUE(ok(expand_into(cluster, longer)));
        EXPECT_TRUE(cluster == text(kCluster));
    }
    // Another cluster may begin right behind it.
    const Bytes next = packed(GetParam(), text(kCluster, 2));
    bytes.insert(bytes.end(), next.begin(), next.end());
    Bytes cluster(kCluster);
    EXPECT_TRUE(ok(expand_into(cluster, bytes)));
    EXPECT_TRUE(cluster == text(kCluster));
}

TEST_P(Compressed, RefusesLessThanACluster) {
    EXPECT_TRUE(refused({}));
    EXPECT_TRUE(refused(packed(GetParam(), text(kCluster - 1))));
    EXPECT_TRUE(refused(packed(GetParam(), {})));
}

TEST_P(Compressed, RefusesMoreThanACluster) {
    EXPECT_TRUE(refused(packed(GetParam(), text(kCluster + 1))));
    EXPECT_TRUE(refused(packed(GetParam(), text(2 * kCluster))));
}

TEST_P(Compressed, RefusesABomb) {
    const Bytes bomb = packed(GetParam(), Bytes(64U << 20));
    EXPECT_LT(bomb.size(), 128U << 10);
    EXPECT_TRUE(refused(bomb));
    EXPECT_TRUE(refused(bomb, 512));
}

TEST_P(Compressed, RefusesTruncatedData) {
    const Bytes bytes = packed(GetParam(), text(kCluster));
    for (std::size_t size = 0; size < bytes.size(); size += 997) {
        EXPECT_TRUE(refused({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)})) << size;
    }
    EXPECT_TRUE(refused({bytes.begin(), bytes.end() - 1}));
}

TEST_P(Compressed, SurvivesAnyDamage) {
    const Bytes good = packed(GetParam(), text(kCluster));
    std::minstd_rand random(7);
    for (int round = 0; round < 300; ++round) {
        Bytes bytes = good;
        bytes[random() % bytes.size()] ^= static_cast<std::byte>(1 + random() % 255);
        Bytes cluster(kCluster);
        const Status status = expand_into(cluster, bytes);
        if (!status) {
            EXPECT_EQ(status.error().kind(), ErrorKind::invalid);
        }
    }
    EXPECT_TRUE(refused(Bytes(4096, std::byte{0xFF})));
}

TEST(CompressedZlib, AcceptsTheLargestWindow) {
    const Bytes half = text(kCluster / 4);
    Bytes bytes;
    for (int i = 0; i < 4; ++i) {
        bytes.insert(bytes.end(), half.begin(), half.end());  // matches at a distance of 16 KiB
    }
    const Bytes far = deflated(bytes, -15);
    EXPECT_LT(far.size(), deflated(bytes, -12).size());
    Bytes cluster(kCluster);
    EXPECT_TRUE(ok(expand(Compression::zlib, far, cluster, kName)));
    EXPECT_TRUE(cluster == bytes);
}

TEST(CompressedZlib, RefusesAZlibHeader) {
    const Bytes bytes = text(kCluster);
    Bytes out(kCluster * 2);
    uLongf size = out.size();
    ASSERT_EQ(::compress(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()),
                         bytes.size()),
              Z_OK);
    Bytes cluster(kCluster);
    EXPECT_TRUE(fails(expand(Compression::zlib, out, cluster, kName), ErrorKind::invalid));
}

TEST(CompressedZstd, AcceptsSeveralFrames) {
    const Bytes first = text(kCluster / 2, 1);
    const Bytes second = text(kCluster / 2, 2);
    Bytes bytes = zstd(first);
    const Bytes more = zstd(second);
    bytes.insert(bytes.end(), more.begin(), more.end());
    Bytes cluster(kCluster);
    EXPECT_TRUE(ok(expand(Compression::zstd, bytes, cluster, kName)));
    EXPECT_TRUE(std::equal(second.begin(), second.end(), cluster.begin() + kCluster / 2));
}

// A frame header alone may ask for gigabytes.
TEST(CompressedZstd, RefusesAFrameWithAGreatWindow) {
    const Bytes bytes = text(kCluster);
    ZSTD_CCtx* context = ::ZSTD_createCCtx();
    ::ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
    ::ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    Bytes out(::ZSTD_compressBound(bytes.size()));
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    for (std::size_t at = 0; at < bytes.size(); at += kCluster / 2) {
        ZSTD_inBuffer from{bytes.data() + at, kCluster / 2, 0};
        const bool last = at + kCluster / 2 == bytes.size();
        EXPECT_EQ(::ZSTD_compressStream2(context, &to, &from, last ? ZSTD_e_end : ZSTD_e_flush), 0U);
    }
    ::ZSTD_freeCCtx(context);
    out.resize(to.pos);
    Bytes cluster(kCluster);
    EXPECT_TRUE(fails(expand(Compression::zstd, out, cluster, kName), ErrorKind::invalid));
}

}  // namespace
}  // namespace snapvm::disk
