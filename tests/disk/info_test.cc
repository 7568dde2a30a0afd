// SPDX-License-Identifier: Apache-2.0
// What `disk info` says of images, beside what qemu-img says of them.
#include "devices/disk/image/info.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "devices/disk/qcow2/create.h"
#include "devices/disk/qcow2/entries.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"
#include "vmm/base/fd.h"

namespace snapvm::disk {
namespace {

using test::fails;
using test::need;
using test::ok;

constexpr std::uint64_t kDisk = 64ULL << 20;

class DiskInfo : public ::testing::Test {
protected:
    [[nodiscard]] std::string file(const std::string& name) const { return folder_.file(name); }
    // Makes a file of `text` and a hole up to `size`.
    [[nodiscard]] std::string file_of(std::string_view text, std::uint64_t size) const {
        const std::string path = file("file");
        const UniqueFd fd = need(open_file(path, O_CREAT | O_RDWR | O_TRUNC, 0600));
        need(write_all_at(fd.get(), std::as_bytes(std::span(text)), 0, path));
        EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
        return path;
    }
    [[nodiscard]] std::string new_image(const qcow2::CreateOptions& options) const {
        const std::string path = file("image");
        const UniqueFd fd = need(open_file(path, O_CREAT | O_RDWR | O_TRUNC, 0600));
        EXPECT_TRUE(ok(create_image(fd.get(), options, path)));
        return path;
    }
    // Sets a big-endian field of 8 bytes.
    static void set64(const std::string& path, std::uint64_t offset, std::uint64_t value) {
        const UniqueFd fd = need(open_file(path, O_RDWR));
        std::vector<std::byte> bytes(8);
        qcow2::store_be64(bytes, 0, value);
        need(write_all_at(fd.get(), bytes, offset, path));
    }

private:
    test::ScratchFolder folder_;
};

TEST_F(DiskInfo, OfARawFile) {
    const std::string path = file_of("bytes", 10'000);
    const ImageInfo info = need(image_info(path));
    EXPECT_EQ(info.format, "raw");
    EXPECT_EQ(info.size, 9728U);  // whole sectors
    EXPECT_EQ(info.file_bytes, 10'000U);
    struct stat expected{};
    ASSERT_EQ(::stat(path.c_str(), &expected), 0);
    EXPECT_EQ(info.host_bytes, static_cast<std::uint64_t>(expected.st_blocks) * 512);
    EXPECT_EQ(need(image_info(file_of("", 0))).size, 0U);
    EXPECT_EQ(to_text(need(image_info(file_of("", 1 << 20)))), "image               " + path +
                                                                   "\n"
                                                                   "format              raw\n"
                                                                   "size                1M (1048576 bytes)\n"
                                                                   "takes on the host   0 bytes");
}

TEST_F(DiskInfo, OfAnOverlay) {
    const std::string path =
        new_image({.size = kDisk, .refcount_order = 0, .backing_file = "../base", .backing_format = "raw"});
    const auto json = nlohmann::json::parse(to_json(need(image_info(path))));
    EXPECT_EQ(json["image"], path);
    EXPECT_EQ(json["format"], "qcow2");
    EXPECT_EQ(json["size"], kDisk);
    const auto expected = nlohmann::json::parse(R"({"version": 3, "cluster_bytes": 131072, "extended_l2": true,
        "refcount_bits": 1, "compression": "zlib", "lazy_refcounts": false, "dirty": false, "corrupt": false,
        "internal_snapshots": 0, "backing_file": "../base", "backing_format": "raw"})");
    EXPECT_EQ(json["qcow2"], expected);
    const std::string text = to_text(need(image_info(path)));
    for (const char* const line :
         {"\nformat              qcow2, version 3\n", "\nclusters            128K, of 32 subclusters\n",
          "\nreference counts    1 bit\n", "\nbacking image       ../base\n", "\nbacking format      raw"}) {
        EXPECT_NE(text.find(line), std::string::npos) << text;
    }
    EXPECT_EQ(text.find("dirty"), std::string::npos);
}

TEST_F(DiskInfo, SaysWhatQemuImgSays) {
    SNAPVM_REQUIRE_QEMU_IMG();
    int number = 0;
    for (const char* const options : {"compat=0.10", "extended_l2=on", "cluster_size=512,refcount_bits=64",
                                      "compression_type=zstd,lazy_refcounts=on,cluster_size=2M"}) {
        SCOPED_TRACE(options);
        const std::string path = file(std::to_string(++number));
        test::make_image(path, kDisk, options);
        test::qemu_img({"snapshot", "-c", "first", path});
        test::qemu_img({"snapshot", "-c", "second", path});
        const auto theirs = test::qemu_img_json({"info", path});
        const auto& data = theirs["format-specific"]["data"];
        const auto ours = nlohmann::json::parse(to_json(need(image_info(path))));
        EXPECT_EQ(ours["size"], theirs["virtual-size"]);
        EXPECT_EQ(ours["host_bytes"], theirs["actual-size"]);
        EXPECT_EQ(ours["qcow2"]["cluster_bytes"], theirs["cluster-size"]);
        EXPECT_EQ(ours["qcow2"]["refcount_bits"], data["refcount-bits"]);
        EXPECT_EQ(ours["qcow2"]["compression"], data["compression-type"]);
        EXPECT_EQ(ours["qcow2"]["extended_l2"], data.value("extended-l2", false));
        EXPECT_EQ(ours["qcow2"]["lazy_refcounts"], data.value("lazy-refcounts", false));
        EXPECT_EQ(ours["qcow2"]["internal_snapshots"], 2);
    }
}

TEST_F(DiskInfo, ShowsDirtyAndCorrupt) {
    const std::string path = new_image({.size = kDisk, .extended_l2 = false});
    set64(path, 72, qcow2::kDirty | qcow2::kCorrupt);
    const ImageInfo info = need(image_info(path));
    const auto json = nlohmann::json::parse(to_json(info));
    EXPECT_EQ(json["qcow2"]["dirty"], true);
    EXPECT_EQ(json["qcow2"]["corrupt"], true);
    EXPECT_NE(to_text(info).find("\ndirty               yes"), std::string::npos);
    EXPECT_NE(to_text(info).find("\ncorrupt             yes"), std::string::npos);
}

TEST_F(DiskInfo, ABackingFormatMayBeUndeclared) {
    const std::string path = new_image({.size = kDisk, .backing_file = "base", .backing_format = "raw"});
    set64(path, 112, 0);  // in place of the extension
    EXPECT_TRUE(nlohmann::json::parse(to_json(need(image_info(path))))["qcow2"]["backing_format"].is_null());
    EXPECT_NE(to_text(need(image_info(path))).find("backing format      not declared"), std::string::npos);
}

TEST_F(DiskInfo, ANameCannotForgeLinesOrEscapes) {
    const std::string name = "b\nformat raw\x1b[2J\xff\"";
    const std::string path = new_image({.size = kDisk, .backing_file = name, .backing_format = "raw"});
    const ImageInfo info = need(image_info(path));
    EXPECT_EQ(info.header->backing_file, name);
    const std::string text = to_text(info);
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    EXPECT_EQ(text.find("\nformat raw"), std::string::npos);
    const std::string json = to_json(info);
    EXPECT_EQ(json.find('\n'), std::string::npos);
    EXPECT_TRUE(nlohmann::json::accept(json));
}

TEST_F(DiskInfo, ADeclaredFormatIsTaken) {
    const std::string image = new_image({.size = kDisk});
    EXPECT_EQ(need(image_info(image)).format, "qcow2");
    const ImageInfo raw = need(image_info(image, "raw"));
    EXPECT_EQ(raw.format, "raw");
    EXPECT_EQ(raw.size, 4U << 17);
    EXPECT_FALSE(raw.header.has_value());
    EXPECT_TRUE(fails(image_info(file_of("bytes", 1 << 20), "qcow2"), ErrorKind::invalid, "magic number"));
    EXPECT_TRUE(fails(image_info(image, "vmdk"), ErrorKind::usage, "no disks of format vmdk"));
}

TEST_F(DiskInfo, RefusesWhatIsNoImage) {
    EXPECT_TRUE(fails(image_info(file("missing")), ErrorKind::system, "missing"));
    EXPECT_TRUE(fails(image_info("/"), ErrorKind::invalid, "neither a file nor a block device"));
    EXPECT_TRUE(fails(image_info("/dev/null"), ErrorKind::invalid, "neither a file nor a block device"));
    ASSERT_EQ(::mkfifo(file("fifo").c_str(), 0600), 0);
    EXPECT_TRUE(fails(image_info(file("fifo")), ErrorKind::invalid, "neither a file nor a block device"));
    EXPECT_TRUE(fails(image_info(file_of("KDMV", 1 << 20)), ErrorKind::unsupported, "looks like a VMDK"));
    EXPECT_TRUE(fails(image_info(file_of("QFI\xfb", 4)), ErrorKind::invalid, "ends within its header"));
    EXPECT_TRUE(fails(image_info(file_of("QFI\xfb", 1 << 20)), ErrorKind::unsupported, "version 0"));
}

TEST_F(DiskInfo, NamesWhatItDoesNotSupport) {
    const std::string path = new_image({.size = kDisk, .extended_l2 = false});
    set64(path, 72, qcow2::kExternalData);
    EXPECT_TRUE(fails(image_info(path), ErrorKind::unsupported, "an external data file"));
    EXPECT_TRUE(fails(image_info(path), ErrorKind::unsupported, path));
}

}  // namespace
}  // namespace snapvm::disk
