// SPDX-License-Identifier: Apache-2.0
// New qcow2 images, as qemu-img sees them: every combination of options is clean and
// can be written.
#include "devices/disk/qcow2/create.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/loop_device.h"
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
using test::ok;

constexpr std::uint64_t kDisk = 64ULL << 20;

Status create(const std::string& path, const CreateOptions& options) {
    const UniqueFd fd = need(open_file(path, O_CREAT | O_EXCL | O_RDWR, 0600));
    return create_image(fd.get(), options, path);
}

std::string words(const CreateOptions& options) {
    return "version " + std::to_string(options.version) + ", cluster_bits " + std::to_string(options.cluster_bits) +
           ", extended_l2 " + std::to_string(static_cast<int>(options.extended_l2)) + ", refcount_order " +
           std::to_string(options.refcount_order) + ", compression " +
           std::to_string(static_cast<int>(options.compression)) + ", size " + std::to_string(options.size) +
           ", backing \"" + options.backing_file + "\"";
}

// All combinations of the given clusters, for a disk of `size` bytes.
std::vector<CreateOptions> combinations(const std::vector<std::uint32_t>& cluster_bits, std::uint64_t size) {
    std::vector<CreateOptions> all;
    for (const std::uint32_t bits : cluster_bits) {
        CreateOptions options{.size = size, .version = 2, .cluster_bits = bits, .extended_l2 = false};
        all.push_back(options);
        options.version = 3;
        for (const bool extended : {false, true}) {
            for (std::uint32_t order = 0; order <= 6; ++order) {
                for (const Compression compression : {Compression::zlib, Compression::zstd}) {
                    options.extended_l2 = extended;
                    options.refcount_order = order;
                    options.compression = compression;
                    if (!extended || bits >= 14) {
                        all.push_back(options);
                    }
                }
            }
        }
    }
    return all;
}

void expect_info(const std::string& path, const CreateOptions& options) {
    const auto info = test::qemu_img_json({"info", path});
    const auto& data = info["format-specific"]["data"];
    EXPECT_EQ(info["format"], "qcow2");
    EXPECT_EQ(info["virtual-size"], options.size);
    EXPECT_EQ(info["cluster-size"], 1U << options.cluster_bits);
    EXPECT_EQ(info["dirty-flag"], false);
    EXPECT_EQ(data["compat"], options.version == 2 ? "0.10" : "1.1");
    EXPECT_EQ(data["refcount-bits"], 1U << options.refcount_order);
    EXPECT_EQ(data["compression-type"], options.compression == Compression::zstd ? "zstd" : "zlib");
    if (options.version == 3) {
        EXPECT_EQ(data["extended-l2"], options.extended_l2);
        EXPECT_EQ(data["corrupt"], false);
    }
    EXPECT_EQ(info.value("backing-filename", ""), options.backing_file);
    EXPECT_EQ(info.value("backing-filename-format", ""), options.backing_format);
}

TEST(Qcow2Create, EveryCombinationIsClean) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    int number = 0;
    for (const CreateOptions& options : combinations({9, 12, 14, 16, 21}, kDisk)) {
        SCOPED_TRACE(words(options));
        const std::string path = folder.file(std::to_string(++number));
        ASSERT_TRUE(ok(create(path, options)));
        EXPECT_TRUE(test::is_clean(path));
        expect_info(path, options);
        ::unlink(path.c_str());
    }
}

TEST(Qcow2Create, QemuWritesToIt) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    int number = 0;
    for (const CreateOptions& options : combinations({9, 16}, kDisk)) {
        if (options.compression == Compression::zstd && options.refcount_order != 4) {
            continue;
        }
        SCOPED_TRACE(words(options));
        const std::string path = folder.file(std::to_string(++number));
        ASSERT_TRUE(ok(create(path, options)));
        test::qemu_io(path, {"read -P 0 0 64M", "write -P 7 4k 1M", "write -P 9 67108352 512", "discard 64k 64k"});
        test::qemu_io(path, {"read -P 0 0 4k", "read -P 7 128k 64k", "read -P 9 67108352 512"});
        EXPECT_TRUE(test::is_clean(path));
        ::unlink(path.c_str());
    }
}

TEST(Qcow2Create, GreatDisksNeedMoreBlocks) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    int number = 0;
    // The largest disk for clusters of 512 bytes has an L1 table of 65536 clusters.
    const std::vector<CreateOptions> all = {
        {.size = 128ULL << 30, .cluster_bits = 9, .extended_l2 = false, .refcount_order = 6},
        {.size = 128ULL << 30, .cluster_bits = 9, .extended_l2 = false, .refcount_order = 0},
        {.size = (128ULL << 30) - 512, .version = 2, .cluster_bits = 9, .extended_l2 = false},
        {.size = 1ULL << 40},
        {.size = 1ULL << 50},
        {.size = 512},
        {.size = 1ULL << 60, .cluster_bits = 21},
    };
    for (const CreateOptions& options : all) {
        SCOPED_TRACE(words(options));
        const std::string path = folder.file(std::to_string(++number));
        ASSERT_TRUE(ok(create(path, options)));
        EXPECT_TRUE(test::is_clean(path));
        expect_info(path, options);
    }
}

TEST(Qcow2Create, IsSmall) {
    const test::ScratchFolder folder;
    ASSERT_TRUE(ok(create(folder.file("a"), {.size = 1ULL << 40})));
    EXPECT_EQ(std::filesystem::file_size(folder.file("a")), 4U << 17);
}

TEST(Qcow2Create, AnOverlayReadsItsBackingImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    int number = 0;
    for (const std::string format : {"raw", "qcow2"}) {
        const std::string backing = folder.file("back." + format);
        test::make_image(backing, kDisk, {}, format);
        test::qemu_io(backing, {"write -P 5 0 1M"}, format);
        for (CreateOptions options : combinations({9, 16}, 2 * kDisk)) {
            options.backing_file = backing;
            options.backing_format = format;
            if (options.refcount_order != 4) {
                continue;
            }
            SCOPED_TRACE(words(options));
            const std::string path = folder.file(std::to_string(++number));
            ASSERT_TRUE(ok(create(path, options)));
            expect_info(path, options);
            test::qemu_io(path, {"read -P 5 0 1M", "read -P 0 1M 1M", "read -P 0 64M 1M", "write -P 6 512 512"});
            test::qemu_io(path, {"read -P 5 0 512", "read -P 6 512 512", "read -P 5 1k 1k"});
            EXPECT_TRUE(test::is_clean(path));
        }
    }
}

TEST(Qcow2Create, OnADeviceThatHasAnotherImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string file = folder.file("device");
    {
        const UniqueFd fd = need(open_file(file, O_CREAT | O_RDWR, 0600));
        const std::vector<std::byte> old(2U << 20, std::byte{0xA5});
        ASSERT_TRUE(ok(write_all_at(fd.get(), old, 0, file)));
    }
    const test::LoopDevice loop(file);
    if (loop.path().empty()) {
        GTEST_SKIP() << loop.reason();
    }
    const UniqueFd device = need(open_file(loop.path(), O_RDWR));
    EXPECT_TRUE(ok(create_image(device.get(), {.size = kDisk}, loop.path())));
    EXPECT_TRUE(test::is_clean(loop.path()));
    EXPECT_TRUE(fails(create_image(device.get(), {.size = kDisk, .cluster_bits = 21}, loop.path()), ErrorKind::usage,
                      "too small for an image: it has 2M"));
    EXPECT_TRUE(test::is_clean(loop.path()));
}

TEST(Qcow2Create, RefusesAPlaceThatIsNotEmpty) {
    const test::ScratchFolder folder;
    const std::string path = folder.file("a");
    ASSERT_TRUE(ok(create(path, {.size = kDisk})));
    const UniqueFd fd = need(open_file(path, O_RDWR));
    EXPECT_TRUE(fails(create_image(fd.get(), {.size = kDisk}, path), ErrorKind::usage, "is not empty"));
    const UniqueFd null = need(open_file("/dev/null", O_RDWR));
    EXPECT_TRUE(
        fails(create_image(null.get(), {.size = kDisk}, "/dev/null"), ErrorKind::usage, "neither a file nor a block"));
    const UniqueFd full = need(open_file(folder.file("b"), O_CREAT | O_RDONLY, 0600));
    EXPECT_TRUE(fails(create_image(full.get(), {.size = kDisk}, "b"), ErrorKind::system));
}

void expect_wrong(const CreateOptions& options, std::string_view part) {
    EXPECT_TRUE(fails(check_options(options), ErrorKind::usage, part)) << words(options);
}

TEST(Qcow2Create, RefusesWhatIsNotPossible) {
    expect_wrong({.size = 0}, "a disk cannot have 0 bytes");
    expect_wrong({.size = 513}, "a disk cannot have 513 bytes");
    expect_wrong({.size = 1ULL << 53}, "is too large for clusters of 128K");
    expect_wrong({.size = ~0ULL - 511}, "is too large for clusters of 128K");
    expect_wrong({.size = ~0ULL - 511, .cluster_bits = 21}, "is too large for clusters of 2M");
    expect_wrong({.size = kDisk, .version = 1}, "no version 1");
    expect_wrong({.size = kDisk, .version = 4}, "no version 4");
    expect_wrong({.size = kDisk, .version = 2}, "version 2 of qcow2 has no subclusters");
    expect_wrong({.size = kDisk, .version = 2, .extended_l2 = false, .refcount_order = 3}, "16 bits only");
    expect_wrong({.size = kDisk, .version = 2, .extended_l2 = false, .compression = Compression::zstd}, "no zstd");
    expect_wrong({.size = kDisk, .cluster_bits = 8}, "clusters of 2^8 bytes");
    expect_wrong({.size = kDisk, .cluster_bits = 22}, "clusters of 2^22 bytes");
    expect_wrong({.size = kDisk, .cluster_bits = ~0U}, "are not possible");
    expect_wrong({.size = kDisk, .cluster_bits = 13}, "subclusters need clusters of 16K or more");
    expect_wrong({.size = kDisk, .refcount_order = 7}, "reference counts of 2^7 bits");
}

TEST(Qcow2Create, RefusesABackingImageThatIsNotPossible) {
    expect_wrong({.size = kDisk, .backing_file = "a"}, "format of the backing image a is not given");
    expect_wrong({.size = kDisk, .backing_file = "a", .backing_format = "vmdk"}, "neither raw nor qcow2");
    expect_wrong({.size = kDisk, .backing_format = "raw"}, "but no backing image");
    expect_wrong({.size = kDisk, .backing_file = std::string(1024, 'a'), .backing_format = "raw"}, "1023 bytes");
    expect_wrong({.size = kDisk, .backing_file = std::string("a\0b", 3), .backing_format = "raw"}, "zero byte");
    expect_wrong({.size = kDisk,
                  .cluster_bits = 9,
                  .extended_l2 = false,
                  .backing_file = std::string(400, 'a'),
                  .backing_format = "raw"},
                 "does not fit into its first cluster");
    EXPECT_TRUE(ok(check_options({.size = kDisk, .backing_file = std::string(1023, 'a'), .backing_format = "raw"})));
}

}  // namespace
}  // namespace snapvm::disk
