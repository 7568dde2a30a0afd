// SPDX-License-Identifier: Apache-2.0
// The chain of an image: what is opened, and what is refused with which words.
#include "devices/disk/image/chain.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/loop_device.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"
#include "vmm/base/fd.h"

namespace snapvm::disk {
namespace {

using snapvm::test::fails;
using snapvm::test::make_image;
using snapvm::test::need;
using snapvm::test::ok;
using snapvm::test::qemu_img;
using snapvm::test::qemu_io;
using snapvm::test::ScratchFolder;

constexpr std::uint64_t kSize = 1ULL << 20;

class ChainTest : public testing::Test {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }
    [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
    static Result<Chain> open(const std::string& path, DiskOptions options = {}) {
        if (options.format == DiskFormat::raw) {
            options.format = DiskFormat::qcow2;
        }
        return open_chain("root", path, options);
    }
    /// Makes an overlay whose header names `backing` as it stands here. qemu-img does not look at
    /// that file.
    [[nodiscard]] std::string overlay(const std::string& name, const std::string& backing,
                                      const std::string& format = "qcow2") const {
        qemu_img({"create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, file(name), std::to_string(kSize)});
        return file(name);
    }
    [[nodiscard]] std::string raw(const std::string& name, std::uint64_t size = kSize) const {
        make_image(file(name), size, {}, "raw");
        return file(name);
    }
    [[nodiscard]] std::string image(const std::string& name) const {
        make_image(file(name), kSize);
        return file(name);
    }
    static std::vector<std::byte> read(Chain& chain, std::uint64_t offset, std::size_t size) {
        std::vector<std::byte> bytes(size);
        const iovec part{bytes.data(), size};
        need(chain.loop->run(chain.top->read(offset, size, std::span(&part, 1))));
        return bytes;
    }
    static std::size_t length(const Chain& chain) {
        std::size_t count = 0;
        for (const Image* one = chain.top.get(); one != nullptr; one = one->backing()) {
            ++count;
        }
        return count;
    }
    /// Expects one line that has all the parts.
    static void expect_refused(const Result<Chain>& chain, ErrorKind kind, std::initializer_list<const char*> parts) {
        for (const char* part : parts) {
            EXPECT_TRUE(fails(chain, kind, part));
        }
        EXPECT_TRUE(chain || chain.error().message().find('\n') == std::string::npos);
    }

    ScratchFolder scratch_;
};

TEST_F(ChainTest, OneImageIsAChain) {
    Chain chain = need(open(image("a")));
    EXPECT_EQ(length(chain), 1U);
    EXPECT_EQ(chain.top->size(), kSize);
    EXPECT_FALSE(chain.top->read_only());
}

TEST_F(ChainTest, ARawFileIsAChain) {
    std::ofstream(file("a")) << std::string(4096, 'x');
    Chain chain = need(open_chain("root", file("a"), {}));
    EXPECT_EQ(chain.top->size(), 4096U);
    EXPECT_EQ(read(chain, 512, 512), std::vector<std::byte>(512, std::byte{'x'}));
}

// Any file can be read as a raw disk: a header must not choose one of the user's own.
TEST_F(ChainTest, ARawBackingFileElsewhereMustBeNamed) {
    std::filesystem::create_directory(file("vm"));
    (void)raw("base");
    const std::string top = overlay("vm/top", "../base", "raw");
    expect_refused(open(top), ErrorKind::usage, {"is a raw file in another folder", "--disk id=root,…,backing="});
    DiskOptions options;
    options.backing = {file("base")};
    EXPECT_TRUE(ok(open(top, options)));
    // Nor is what is beside a link to the image.
    std::filesystem::create_symlink("vm/beside", file("linked"));
    (void)overlay("vm/beside", "base", "raw");
    expect_refused(open(file("linked")), ErrorKind::usage, {"is a raw file in another folder"});
    std::filesystem::create_symlink("../base", file("vm/base"));
    expect_refused(open(overlay("vm/linked", "base", "raw")), ErrorKind::usage, {"is a raw file in another folder"});
}

// Relative names count from the folder of the image that has them, not from the current one.
TEST_F(ChainTest, EachImageNamesTheNext) {
    std::filesystem::create_directory(file("bases"));
    (void)raw("bases/base");
    qemu_io(file("bases/base"), {"write -P 1 0 64k", "write -P 2 64k 64k", "write -P 3 128k 64k"}, "raw");
    (void)overlay("bases/middle", "base", "raw");
    qemu_io(file("bases/middle"), {"write -P 4 64k 64k"});
    const std::string top = overlay("top", "bases/middle");
    qemu_io(top, {"write -P 5 128k 64k"});
    Chain chain = need(open(top));
    EXPECT_EQ(length(chain), 3U);
    EXPECT_TRUE(chain.top->backing()->read_only());
    for (const auto& [offset, value] : {std::pair(0, 1), std::pair(64 << 10, 4), std::pair(128 << 10, 5)}) {
        EXPECT_EQ(read(chain, static_cast<std::uint64_t>(offset), 512),
                  std::vector<std::byte>(512, static_cast<std::byte>(value)))
            << offset;
    }
}

TEST_F(ChainTest, ABackingFileThatIsMissingIsNamed) {
    expect_refused(open(overlay("top", "gone")), ErrorKind::not_found,
                   {"disk root (", "/top): its backing file", "/gone is missing", "qemu-img rebase -u"});
}

TEST_F(ChainTest, WhatIsNoFileIsRefused) {
    std::filesystem::create_directory(file("folder"));
    ASSERT_EQ(::mkfifo(file("fifo").c_str(), 0600), 0);
    std::ofstream(file("empty")).flush();
    expect_refused(open(overlay("a", "folder", "raw")), ErrorKind::invalid, {"folder is a directory"});
    expect_refused(open(overlay("b", "fifo", "raw")), ErrorKind::invalid,
                   {"fifo is neither a file nor a block device"});
    expect_refused(open(overlay("c", "empty", "raw")), ErrorKind::invalid, {"empty is empty"});
    // Opening a character device may have effects, so it is not opened.
    expect_refused(open(overlay("d", "/dev/zero", "raw")), ErrorKind::invalid,
                   {"is neither a file nor a block device"});
    (void)raw("odd");
    ASSERT_EQ(::truncate(file("odd").c_str(), 5000), 0);
    expect_refused(open(overlay("e", "odd", "raw")), ErrorKind::invalid, {"ends within a sector", "truncate -s %512"});
}

TEST_F(ChainTest, LoopsAreRefused) {
    const std::string a = overlay("a", "b");
    (void)overlay("b", "a");
    expect_refused(open(a), ErrorKind::invalid, {"/b): its backing file", "the chain is a loop"});
    expect_refused(open(overlay("self", "self")), ErrorKind::invalid, {"the chain is a loop"});
    // By another name, too.
    std::filesystem::create_hard_link(overlay("c", "d"), file("d"));
    expect_refused(open(file("c")), ErrorKind::invalid, {"the chain is a loop"});
}

TEST_F(ChainTest, AChainHasTwoHundredImages) {
    (void)image("0");
    for (std::size_t i = 1; i < kMaxImages + 1; ++i) {
        std::filesystem::copy_file(overlay("next", std::to_string(i - 1)), file(std::to_string(i)));
    }
    EXPECT_EQ(length(need(open(file(std::to_string(kMaxImages - 1)), {.direct = false}))), kMaxImages);
    expect_refused(open(file(std::to_string(kMaxImages)), {.direct = false}), ErrorKind::invalid,
                   {"more than 200 images"});
}

TEST_F(ChainTest, AMissingFormatIsNotGuessed) {
    (void)raw("base");
    qemu_io(file("base"), {"write -P 1 0 512"}, "raw");
    const std::string top = overlay("top", "base", "raw");
    // Changes the type of the extension with the format, so that it is one of the unknown ones.
    const UniqueFd fd = need(open_file(top, O_RDWR));
    std::vector<std::byte> header(512);
    need(read_exactly_at(fd.get(), header, 0, top));
    const std::vector<std::byte> type = {std::byte{0xE2}, std::byte{0x79}, std::byte{0x2A}, std::byte{0xCA}};
    const auto at = std::ranges::search(header, type).begin();
    ASSERT_NE(at, header.end());
    need(write_all_at(fd.get(), std::vector<std::byte>(4, std::byte{0x55}),
                      static_cast<std::uint64_t>(at - header.begin()), top));
    expect_refused(open(top), ErrorKind::invalid,
                   {"does not say which format its backing file base has", "qemu-img rebase -u -b base -F raw|qcow2"});
}

TEST_F(ChainTest, OtherFormatsAndProtocolsAreRefusedByName) {
    (void)raw("base");
    expect_refused(open(overlay("a", "base", "vmdk")), ErrorKind::unsupported, {"of format vmdk"});
    for (const auto& [name, protocol] :
         {std::pair("nbd://host/disk", "nbd"), std::pair("json:{\"driver\":\"raw\"}", "json"),
          std::pair("file:base", "file"), std::pair("https://host/a", "https")}) {
        const std::string words = std::string("by the protocol ") + protocol;
        expect_refused(open(overlay("b", name, "raw")), ErrorKind::unsupported, {words.c_str(), name});
    }
    // A slash before the colon makes it a path.
    expect_refused(open(overlay("c", "./a:b", "raw")), ErrorKind::not_found, {"./a:b is missing"});
}

TEST_F(ChainTest, AForeignFileMustBeNamed) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "giving a file to another user needs root";
    }
    (void)raw("base");
    ASSERT_EQ(::chown(file("base").c_str(), 12345, 12345), 0);
    const std::string top = overlay("top", "base", "raw");
    expect_refused(open(top), ErrorKind::usage, {"belongs to another user", "--disk id=root,…,backing=", "/base"});
    expect_refused(open(top, {.restored = true}), ErrorKind::usage, {"--set disk.root.backing="});
    EXPECT_TRUE(fails(open(top, {.backing = {top}}), ErrorKind::usage));
    EXPECT_TRUE(ok(open(top, {.backing = {file("other"), file("base")}})));
}

TEST_F(ChainTest, ADeviceMustBeNamed) {
    const snapvm::test::LoopDevice device(raw("base"));
    if (device.path().empty()) {
        GTEST_SKIP() << device.reason();
    }
    const std::string top = overlay("top", device.path(), "raw");
    expect_refused(open(top), ErrorKind::usage, {"is a device", "backing=/dev/loop"});
    EXPECT_TRUE(ok(open(top, {.backing = {device.path()}})));
}

TEST_F(ChainTest, LocksTheWholeChain) {
    const std::string base = image("base");
    const std::string one = overlay("one", "base");
    const std::string two = overlay("two", "base");
    const Chain first = need(open(one));
    EXPECT_TRUE(fails(open(one), ErrorKind::busy, "another machine has it"));
    EXPECT_TRUE(fails(open(base), ErrorKind::busy)) << "it is behind a running machine's disk";
    EXPECT_TRUE(ok(open(base, {.read_only = true})));
    EXPECT_TRUE(ok(open(two))) << "several overlays share what is behind them";
}

TEST_F(ChainTest, ABaseThatIsWrittenIsNoBase) {
    const std::string base = image("base");
    const Chain writer = need(open(base));
    expect_refused(open(overlay("top", "base")), ErrorKind::busy, {"another machine writes it", "stop that machine"});
}

TEST_F(ChainTest, OpenDiskGivesTheVirtualSize) {
    const auto disk = need(open_disk("root", image("a"), {.format = DiskFormat::qcow2}));
    EXPECT_EQ(disk->size(), kSize);
    EXPECT_TRUE(disk->has_tables());
    EXPECT_TRUE(fails(open_disk("root", raw("b"), {.format = DiskFormat::qcow2}), ErrorKind::invalid));
}

}  // namespace
}  // namespace snapvm::disk
