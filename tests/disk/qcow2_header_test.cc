// SPDX-License-Identifier: Apache-2.0
// Headers of qcow2: those that qemu-img writes come back byte for byte, and values that are not
// possible are refused by name.
#include "devices/disk/qcow2/header.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

#include "devices/disk/qcow2/entries.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"
#include "vmm/base/fd.h"

namespace snapvm::disk {
namespace {

using namespace qcow2;
using test::fails;
using test::need;
using test::need_error;
using test::ok;
using Bytes = std::vector<std::byte>;

constexpr const char* kName = "disk a (/a)";
constexpr std::uint64_t kDisk = 64ULL << 20;

void put32(Bytes& bytes, std::size_t offset, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) {
        bytes[offset + i] = static_cast<std::byte>(value >> (24 - 8 * i));
    }
}
void put64(Bytes& bytes, std::size_t offset, std::uint64_t value) { store_be64(bytes, offset, value); }

// A header that is accepted, of 64 KiB clusters and a disk of 64 MiB.
Header good() {
    Header header;
    header.size = kDisk;
    header.l1_entries = 1;
    header.l1_offset = 3 << 16;
    header.refcount_table_offset = 1 << 16;
    header.refcount_table_clusters = 1;
    header.more_fields.resize(7);
    return header;
}

Bytes good_bytes() { return need(encode_header(good())); }

// A good header with a change. Returns what parse_header() says.
template <class Change>
Result<Header> changed(Change change) {
    Bytes bytes = good_bytes();
    change(bytes);
    return parse_header(bytes, kName);
}
Result<Header> with32(std::size_t offset, std::uint32_t value) {
    return changed([&](Bytes& bytes) { put32(bytes, offset, value); });
}
Result<Header> with64(std::size_t offset, std::uint64_t value) {
    return changed([&](Bytes& bytes) { put64(bytes, offset, value); });
}

void expect_invalid(const Result<Header>& result, std::string_view part) {
    EXPECT_TRUE(fails(result, ErrorKind::invalid, part));
    EXPECT_TRUE(fails(result, ErrorKind::invalid, kName));
}

Bytes first_bytes(const std::string& path, std::size_t size) {
    const UniqueFd fd = need(open_file(path, 0));
    Bytes bytes(size);
    need(read_exactly_at(fd.get(), bytes, 0, path));
    return bytes;
}

TEST(Qcow2Header, WhatIsEncodedIsParsed) {
    Header header = good();
    header.incompatible = kDirty | kCompressionType | kExtendedL2;
    header.compatible = kLazyRefcounts | 1ULL << 40;
    header.autoclear = 1ULL << 63 | 1;
    header.refcount_order = 6;
    header.compression = Compression::zstd;
    header.more_fields.assign(15, std::byte{0x5A});
    header.snapshots = 3;
    header.snapshots_offset = 9 << 16;
    header.has_backing = true;
    header.backing_file = "/a/backing image";
    header.backing_format = "raw";
    header.extensions = {{.type = 0x12345678, .data = Bytes(13, std::byte{7})}, {.type = 0x23852875, .data = {}}};
    const Bytes bytes = need(encode_header(header));
    EXPECT_EQ(bytes.size(), header.cluster_size());
    EXPECT_EQ(need(parse_header(bytes, kName)), header);
    EXPECT_EQ(need(header_bytes(std::span(bytes).first(72), kName)), header.cluster_size());
}

TEST(Qcow2Header, SizesFollowFromTheFields) {
    Header header = good();
    EXPECT_EQ(header.l2_entries(), 8192U);
    EXPECT_EQ(header.l2_reach(), 512ULL << 20);
    EXPECT_EQ(header.refcounts_per_block(), 32768U);
    header.incompatible = kExtendedL2;
    header.refcount_order = 0;
    EXPECT_EQ(header.l2_entries(), 4096U);
    EXPECT_EQ(header.refcounts_per_block(), 524288U);
}

TEST(Qcow2Header, RewritesWhatQemuWroteByteForByte) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string backing = folder.file("back.raw");
    test::make_image(backing, kDisk, {}, "raw");
    const std::string behind = ",backing_file=" + backing + ",backing_fmt=raw";
    const std::vector<std::string> all = {"compat=0.10",
                                          "compat=1.1",
                                          "compat=0.10,cluster_size=512",
                                          "compat=0.10,cluster_size=2M",
                                          "cluster_size=2M,extended_l2=on",
                                          "cluster_size=16k,extended_l2=on",
                                          "cluster_size=4k,refcount_bits=1",
                                          "refcount_bits=64",
                                          "refcount_bits=2,lazy_refcounts=on",
                                          "compression_type=zstd",
                                          "compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=32"};
    int number = 0;
    for (const std::string& options : all) {
        for (const bool with_backing : {false, true}) {
            SCOPED_TRACE(options + (with_backing ? behind : ""));
            const std::string path = folder.file("image" + std::to_string(++number));
            test::make_image(path, kDisk, options + (with_backing ? behind : ""));
            const std::uint64_t size = need(header_bytes(first_bytes(path, 72), path));
            const Bytes bytes = first_bytes(path, size);
            const Header header = need(parse_header(bytes, path));
            EXPECT_EQ(header.size, kDisk);
            EXPECT_EQ(header.has_backing, with_backing);
            EXPECT_EQ(header.backing_file, with_backing ? backing : "");
            EXPECT_EQ(header.backing_format, with_backing ? "raw" : "");
            EXPECT_TRUE(need(encode_header(header)) == bytes);
        }
    }
}

TEST(Qcow2Header, KeepsQemusBitmaps) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    test::make_image(path, kDisk);
    test::qemu_img({"bitmap", "--add", path, "changes"});
    const Bytes bytes = first_bytes(path, 1 << 16);
    Header header = need(parse_header(bytes, path));
    EXPECT_EQ(header.autoclear, 1U);
    EXPECT_TRUE(std::ranges::count(header.extensions, 0x23852875U, &Extension::type) == 1);
    EXPECT_TRUE(need(encode_header(header)) == bytes);
}

TEST(Qcow2Header, ABackingImageThatQemuTookAwayIsNone) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    test::make_image(folder.file("back"), kDisk);
    test::make_image(folder.file("top"), 0, "backing_fmt=qcow2,backing_file=" + folder.file("back"));
    test::qemu_img({"rebase", "-u", "-b", "", folder.file("top")});
    const Header header = need(parse_header(first_bytes(folder.file("top"), 1 << 16), kName));
    EXPECT_FALSE(header.has_backing);
    EXPECT_EQ(header.backing_file, "");
}

TEST(Qcow2Header, AcceptsAFileThatEndsWithinItsFirstCluster) {
    const Bytes bytes = good_bytes();
    EXPECT_EQ(need(parse_header(std::span(bytes).first(120), kName)), good());
    EXPECT_EQ(need(parse_header(std::span(bytes).first(112), kName)), good());
}

TEST(Qcow2Header, AHeaderOf104BytesStaysOne) {
    Header header = good();
    header.more_fields.clear();
    const Bytes bytes = need(encode_header(header));
    EXPECT_EQ(bytes[103], std::byte{104});
    EXPECT_EQ(need(parse_header(bytes, kName)), header);
}

TEST(Qcow2Header, RefusesWhatIsNoHeader) {
    const Bytes bytes = good_bytes();
    for (const std::size_t size : {0, 4, 71}) {
        expect_invalid(parse_header(std::span(bytes).first(size), kName), "ends within its header");
        EXPECT_TRUE(fails(header_bytes(std::span(bytes).first(size), kName), ErrorKind::invalid));
    }
    expect_invalid(parse_header(std::span(bytes).first(103), kName), "ends within its header");
    expect_invalid(parse_header(std::span(bytes).first(104), kName), "impossible length");
    expect_invalid(with32(0, kMagic ^ 1), "magic number");
}

TEST(Qcow2Header, RefusesFieldsOutOfTheirRange) {
    expect_invalid(with32(20, 8), "2^8 bytes");
    expect_invalid(with32(20, 22), "2^22 bytes");
    expect_invalid(with32(20, ~0U), "not 512 bytes to 2 MiB");
    expect_invalid(with32(96, 7), "2^7 bits");
    for (const std::uint32_t length : {0U, 72U, 103U, 105U, 0x10008U, ~0U, ~7U}) {
        expect_invalid(with32(100, length), "impossible length, " + std::to_string(length));
    }
}

TEST(Qcow2Header, RefusesExtendedL2WithSmallClusters) {
    const auto with_bits = [](std::uint32_t bits) {
        return changed([&](Bytes& bytes) {
            put32(bytes, 20, bits);
            put64(bytes, 72, kExtendedL2);
            put32(bytes, 36, 64);
        });
    };
    expect_invalid(with_bits(13), "clusters of 16 KiB or more");
    EXPECT_TRUE(ok(with_bits(14)));
}

TEST(Qcow2Header, RefusesTablesThatAreNotPossible) {
    expect_invalid(with64(40, (3 << 16) + 512), "L1 table does not begin at a cluster");
    expect_invalid(with64(40, 0), "L1 table is where the header is");
    expect_invalid(with64(40, ~0xFFFFULL), "L1 table is beyond");
    expect_invalid(with64(40, 1ULL << 63), "L1 table is beyond");
    expect_invalid(with32(36, (4 << 20) + 1), "L1 table is larger than 32 MiB");
    expect_invalid(with32(36, ~0U), "L1 table is larger than 32 MiB");
    expect_invalid(with32(36, 0), "L1 table is too small for a disk of 67108864 bytes");
    expect_invalid(with64(24, (512ULL << 20) + 1), "L1 table is too small");
    expect_invalid(with64(24, ~0ULL), "L1 table is too small");
    expect_invalid(with64(48, (1 << 16) + 1), "refcount table does not begin at a cluster");
    expect_invalid(with64(48, 0), "refcount table is where the header is");
    expect_invalid(with64(48, 0x7FFFFFFFFFFF0000), "refcount table is beyond");
    expect_invalid(with32(56, 0), "no refcount table");
    expect_invalid(with32(56, 129), "refcount table is larger than 8 MiB");
    expect_invalid(with32(56, ~0U), "refcount table is larger than 8 MiB");
    expect_invalid(with64(64, 1), "snapshot table does not begin at a cluster");
    expect_invalid(with32(60, 1), "snapshot table is where the header is");
    expect_invalid(with32(60, 65'537), "more than 65536 internal snapshots");
    EXPECT_TRUE(ok(with64(24, 512ULL << 20)));
    EXPECT_TRUE(ok(with32(36, 4 << 20)));
    EXPECT_TRUE(ok(with32(56, 128)));
}

TEST(Qcow2Header, RefusesABackingNameOutOfItsPlace) {
    const auto with_name = [](std::uint64_t offset, std::uint32_t size, char letter = 'n') {
        return changed([&](Bytes& bytes) {
            put64(bytes, 8, offset);
            put32(bytes, 16, size);
            if (offset < bytes.size()) {
                std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset),
                            std::min<std::size_t>(size, bytes.size() - offset), static_cast<std::byte>(letter));
            }
        });
    };
    const std::string place = "not between header and end of the first cluster";
    EXPECT_EQ(need(with_name(200, 1023)).backing_file, std::string(1023, 'n'));
    EXPECT_EQ(need(with_name(65'535, 1)).backing_file, "n");
    EXPECT_FALSE(need(with_name(200, 0)).has_backing);
    expect_invalid(with_name(200, 1024), "too long, 1024 bytes");
    expect_invalid(with_name(200, ~0U), "too long");
    expect_invalid(with_name(65'535, 2), "too long");
    expect_invalid(with_name(111, 1), place);
    expect_invalid(with_name(65'537, 1), place);
    expect_invalid(with_name(~0ULL, 1), place);
    expect_invalid(with_name(200, 5, '\0'), "zero byte");
}

// A good header whose extensions are `words`.
Result<Header> with_extensions(const std::vector<std::uint32_t>& words) {
    return changed([&](Bytes& bytes) {
        for (std::size_t i = 0; i < words.size(); ++i) {
            put32(bytes, 112 + 4 * i, words[i]);
        }
    });
}

TEST(Qcow2Header, RefusesDamagedExtensions) {
    const std::string beyond = "goes beyond the room for extensions";
    const std::string no_name = "no name of a format";
    constexpr std::uint32_t kFormat = 0xE2792ACA;
    EXPECT_EQ(need(with_extensions({5, 0x10000 - 120})).extensions.front().data.size(), 0x10000U - 120);
    expect_invalid(with_extensions({5, 0x10000 - 119}), beyond);
    expect_invalid(with_extensions({5, ~0U}), beyond);
    expect_invalid(with_extensions({kFormat, 3, 0x72617700, 0, kFormat, 3, 0x72617700, 0}), no_name);
    expect_invalid(with_extensions({kFormat, 4, 0x72617700, 0}), no_name);
    expect_invalid(with_extensions({kFormat, 16, 0x61616161, 0x61616161, 0x61616161, 0x61616161}), no_name);
    // The name of the backing image ends the room for extensions.
    expect_invalid(changed([](Bytes& bytes) {
                       put64(bytes, 8, 124);
                       put32(bytes, 16, 1);
                       bytes[124] = std::byte{'n'};
                       put32(bytes, 112, 5);
                       put32(bytes, 116, 5);
                   }),
                   beyond);
}

TEST(Qcow2Header, RefusesContradictionsOfCompression) {
    const auto with = [](std::uint64_t features, int type) {
        return changed([&](Bytes& bytes) {
            put64(bytes, 72, features);
            bytes[104] = static_cast<std::byte>(type);
        });
    };
    EXPECT_EQ(need(with(kCompressionType, 1)).compression, Compression::zstd);
    expect_invalid(with(kCompressionType, 0), "contradict");
    expect_invalid(with(0, 1), "contradict");
    EXPECT_TRUE(fails(with(kCompressionType, 2), ErrorKind::unsupported, "unknown compression, number 2"));
}

TEST(Qcow2Header, NamesWhatItDoesNotSupport) {
    EXPECT_TRUE(fails(with32(4, 1), ErrorKind::unsupported, "version 1"));
    EXPECT_TRUE(fails(with32(4, 4), ErrorKind::unsupported, "version 4"));
    EXPECT_TRUE(fails(with32(32, 1), ErrorKind::unsupported, "AES"));
    EXPECT_TRUE(fails(with32(32, 2), ErrorKind::unsupported, "LUKS"));
    EXPECT_TRUE(fails(with32(32, 3), ErrorKind::unsupported, "number 3"));
    EXPECT_TRUE(fails(with64(72, kExternalData), ErrorKind::unsupported, "an external data file"));
    EXPECT_TRUE(fails(with64(72, 1ULL << 5), ErrorKind::unsupported, "feature of bit 5"));
    EXPECT_TRUE(fails(with64(72, 1ULL << 63), ErrorKind::unsupported, "feature of bit 63"));
}

TEST(Qcow2Header, TakesAFeaturesNameFromTheTable) {
    Header header = good();
    header.incompatible = 1ULL << 9;
    Bytes table(3 * 48);
    const auto entry = [&](std::size_t index, int type, int bit, std::string_view name) {
        table[index * 48] = static_cast<std::byte>(type);
        table[index * 48 + 1] = static_cast<std::byte>(bit);
        std::ranges::copy(std::as_bytes(std::span(name)), table.begin() + static_cast<std::ptrdiff_t>(index * 48 + 2));
    };
    entry(0, 1, 9, "another kind");
    entry(1, 0, 8, "another bit");
    entry(2, 0, 9, "time travel");
    header.extensions = {{.type = 0x6803F857, .data = table}};
    EXPECT_TRUE(fails(parse_header(need(encode_header(header)), kName), ErrorKind::unsupported,
                      R"(the feature "time travel" (bit 9))"));
}

TEST(Qcow2Header, RefusesQemusEncryptionAndExternalFiles) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    test::make_image(folder.file("external"), kDisk, "data_file=" + folder.file("data"));
    EXPECT_TRUE(fails(parse_header(first_bytes(folder.file("external"), 1 << 16), kName), ErrorKind::unsupported,
                      "an external data file"));
    test::qemu_img({"create", "-q", "--object", "secret,id=s,data=123456", "-f", "qcow2", "-o",
                    "encrypt.format=aes,encrypt.key-secret=s", folder.file("aes"), "1M"});
    EXPECT_TRUE(fails(parse_header(first_bytes(folder.file("aes"), 1 << 16), kName), ErrorKind::unsupported, "AES"));
}

TEST(Qcow2Header, Version2HasNoLaterFields) {
    Header header = good();
    header.version = 2;
    header.more_fields.clear();
    Bytes bytes = need(encode_header(header));
    EXPECT_EQ(need(parse_header(bytes, kName)), header);
    // What would be features and a refcount order is an extension here.
    put32(bytes, 72, 5);
    put32(bytes, 76, 8);
    put64(bytes, 80, ~0ULL);
    const Header parsed = need(parse_header(bytes, kName));
    EXPECT_EQ(parsed.incompatible, 0U);
    EXPECT_EQ(parsed.refcount_order, 4U);
    EXPECT_EQ(parsed.extensions.size(), 1U);
}

TEST(Qcow2Header, RefusesToEncodeWhatDoesNotFit) {
    Header header = good();
    header.cluster_bits = 9;
    header.has_backing = true;
    header.backing_file = std::string(512 - 120, 'n');
    EXPECT_TRUE(ok(encode_header(header)));
    header.backing_file += "n";
    EXPECT_TRUE(fails(encode_header(header), ErrorKind::usage, "does not fit into its first cluster"));
    header.backing_file = std::string(1024, 'n');
    EXPECT_TRUE(fails(encode_header(header), ErrorKind::usage, "longer than 1023 bytes"));
    header.backing_file = std::string(2, '\0');
    EXPECT_TRUE(fails(encode_header(header), ErrorKind::usage, "zero byte"));
    header = good();
    header.version = 2;
    header.incompatible = kDirty;
    EXPECT_TRUE(fails(encode_header(header), ErrorKind::usage, "version 2"));
    // The end of the cluster ends the extensions.
    header = good();
    header.cluster_bits = 9;
    header.extensions = {{.type = 5, .data = Bytes(512 - 120)}};
    EXPECT_EQ(need(encode_header(header)).size(), 512U);
    header.extensions.front().data.push_back({});
    EXPECT_TRUE(fails(encode_header(header), ErrorKind::usage));
}

}  // namespace
}  // namespace snapvm::disk
