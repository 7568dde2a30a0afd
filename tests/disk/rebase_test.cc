// SPDX-License-Identifier: Apache-2.0
// Another backing image in a header: what else the first cluster says stays, and a power loss
// leaves the old name or the new one.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/qcow2/big_endian.h"
#include "tests/disk/power_loss.h"
#include "tests/disk/qcow2_rig.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::disk {
namespace {

using qcow2::Extension;
using qcow2::Header;
using snapvm::test::fails;
using snapvm::test::need;
using snapvm::test::ok;
using snapvm::test::ScratchFolder;
using test_rig::OpenFile;
using test_rig::qemu;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kDisk = 1ULL << 20;

class RebaseTest : public ::testing::Test {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }
    /// Makes an image over a file of this name, which need not exist.
    void make(const std::string& backing, const std::string& options = "compat=1.1") const {
        std::filesystem::remove(path_);
        qemu({"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", options, "-b", backing, "-F", "raw", path_,
              std::to_string(kDisk)});
    }
    [[nodiscard]] Header header(const std::string& path) const {
        const UniqueFd fd = need(open_file(path, O_RDONLY));
        return need(qcow2::read_header(fd.get(), std::filesystem::file_size(path), path));
    }
    [[nodiscard]] Bytes first_cluster(std::size_t size = 65536) const {
        Bytes bytes(size);
        const UniqueFd fd = need(open_file(path_, O_RDONLY));
        need(read_exactly_at(fd.get(), bytes, 0, path_));
        return bytes;
    }
    Status rebase(const std::string& file, const std::string& format) const {
        OpenFile open(path_);
        return open.run(open.header().rebase(file, format));
    }
    /// Adds an extension that no program knows to the header.
    void add_extension(std::size_t size) const {
        OpenFile open(path_);
        Extension extension;
        extension.type = 0x12345678;
        extension.data.resize(size, std::byte{0xA5});
        open.header().change().extensions.push_back(extension);
        need(open.run(open.header().write()));
    }
    void expect_named(const std::string& file, const std::string& format) const {
        const nlohmann::json info = snapvm::test::qemu_img_json({"info", "-U", path_});
        EXPECT_EQ(info.value("backing-filename", ""), file);
        EXPECT_EQ(info.value("backing-filename-format", ""), file.empty() ? "" : format);
    }

    ScratchFolder folder_;
    const std::string path_ = folder_.file("image");
};

TEST_F(RebaseTest, NamesAnotherImageAndKeepsTheRest) {
    for (const char* const options : {"compat=1.1", "compat=0.10", "compat=1.1,extended_l2=on,cluster_size=128k",
                                      "compat=1.1,compression_type=zstd", "compat=1.1,cluster_size=512"}) {
        SCOPED_TRACE(options);
        make("old", options);
        if (std::string(options).find("=512") == std::string::npos) {
            // So qemu-img adds its table of feature names, which reaches into the second sector.
            qemu({"qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "old", "-F", "raw", path_});
            add_extension(301);
        }
        const Header before = header(path_);
        EXPECT_EQ(before.name_offset, 0U);
        for (const auto& [file, format] :
             {std::pair("next", "qcow2"), std::pair("a", "raw"), std::pair("images/of/longer/names", "qcow2")}) {
            ASSERT_TRUE(ok(rebase(file, format)));
            Header after = header(path_);
            EXPECT_EQ(after.backing_file, file);
            EXPECT_EQ(after.backing_format, format);
            after.backing_file = before.backing_file;
            after.backing_format = before.backing_format;
            after.name_offset = before.name_offset;
            EXPECT_TRUE(after == before);
            expect_named(file, format);
        }
    }
}

TEST_F(RebaseTest, ChangesNoByteOfTheExtensions) {
    make("old");
    qemu({"qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "old", "-F", "raw", path_});
    add_extension(700);
    const Bytes before = first_cluster();
    const std::uint64_t name = qcow2::load_be64(before, 8);
    ASSERT_GT(name, 1024U);
    ASSERT_TRUE(ok(rebase("newer", "qcow2")));
    const Bytes after = first_cluster();
    EXPECT_GE(qcow2::load_be64(after, 8), name + 3);
    // The format's extension comes first.
    const std::size_t rest = qcow2::load_be<std::uint32_t>(before, 100) + 16;
    EXPECT_TRUE(std::equal(before.begin() + static_cast<std::ptrdiff_t>(rest),
                           before.begin() + static_cast<std::ptrdiff_t>(name) + 3,
                           after.begin() + static_cast<std::ptrdiff_t>(rest)));
    EXPECT_TRUE(std::equal(before.begin() + 20, before.begin() + 112, after.begin() + 20));
}

TEST_F(RebaseTest, LeavesNoBackingImage) {
    for (const char* const options : {"compat=1.1", "compat=0.10"}) {
        make("old", options);
        add_extension(600);
        const Header before = header(path_);
        ASSERT_TRUE(ok(rebase("", "")));
        EXPECT_FALSE(header(path_).has_backing);
        EXPECT_EQ(header(path_).extensions, before.extensions);
        expect_named("", "");
        EXPECT_TRUE(snapvm::test::is_clean(path_));
        ASSERT_TRUE(ok(rebase("again", "qcow2")));
        expect_named("again", "qcow2");
    }
}

// Later writes of the header leave the name where it is: to move it could tear it.
TEST_F(RebaseTest, ANameKeepsItsPlace) {
    make("old");
    add_extension(600);
    ASSERT_TRUE(ok(rebase("newer", "raw")));
    const std::uint64_t place = qcow2::load_be64(first_cluster(), 8);
    EXPECT_EQ(header(path_).name_offset, place);
    {
        OpenFile open(path_);
        need(open.run(open.header().write()));
    }
    EXPECT_EQ(qcow2::load_be64(first_cluster(), 8), place);
    expect_named("newer", "raw");
    // The next one takes the first place again.
    ASSERT_TRUE(ok(rebase("x", "raw")));
    EXPECT_EQ(header(path_).name_offset, 0U);
}

TEST_F(RebaseTest, ANameMustFit) {
    make(std::string(700, 'a'), "compat=1.1,cluster_size=1k");
    const Bytes before = first_cluster(1024);
    EXPECT_TRUE(fails(rebase(std::string(500, 'b'), "raw"), ErrorKind::usage, "no room"));
    EXPECT_TRUE(fails(rebase(std::string(1024, 'b'), "raw"), ErrorKind::usage, "1023"));
    EXPECT_TRUE(first_cluster(1024) == before);
    ASSERT_TRUE(ok(rebase(std::string(100, 'c'), "raw")));
    expect_named(std::string(100, 'c'), "raw");
    make("a", "compat=1.1,cluster_size=512");
    EXPECT_TRUE(fails(rebase(std::string(400, 'b'), "raw"), ErrorKind::usage, "does not fit"));
}

TEST_F(RebaseTest, AFailedCallLeavesTheOldNameInMemory) {
    make("old");
    add_extension(600);
    for (unsigned failing = 0; failing < 5; ++failing) {
        unsigned calls = 0;
        OpenFile open(path_, [&](const io::Request&) { return io::Fault{.error = calls++ == failing ? EIO : 0}; });
        EXPECT_FALSE(open.run(open.header().rebase("newer", "qcow2")));
        EXPECT_EQ(open.header().get().backing_file, "old");
        EXPECT_EQ(open.header().get().backing_format, "raw");
        const Header now = header(path_);
        EXPECT_TRUE(now.backing_file == (now.backing_format == "raw" ? "old" : "newer"));
        if (now.backing_format != "raw") {
            break;
        }
    }
}

TEST_F(RebaseTest, APowerLossLeavesOneOfTheNames) {
    std::mt19937_64 random(1);
    const std::string old_long(800, 'o');
    const std::string new_long(900, 'n');
    for (const std::size_t extension : {0U, 40U, 600U}) {
        for (const auto& [old_name, new_name] : {std::pair<std::string, std::string>("old", "newer"),
                                                 {old_long, "newer"},
                                                 {"old", new_long},
                                                 {old_long, new_long},
                                                 {old_long, ""}}) {
            make(old_name);
            add_extension(extension);
            const std::string format = new_name.empty() ? "" : "qcow2";
            const auto extensions = header(path_).extensions;
            test::PowerLoss losses(path_);
            {
                OpenFile open(path_, losses.hook());
                for (const std::string& name : {new_name, old_name, new_name}) {
                    const std::string its = name == new_name ? format : "raw";
                    ASSERT_TRUE(ok(losses.run(open.loop(), open.header().rebase(name, its))));
                }
            }
            for (std::size_t point = 0; point <= losses.calls(); ++point) {
                for (unsigned i = 0; i < 8; ++i) {
                    SCOPED_TRACE(point);
                    losses.build(point, random, folder_.file("lost"));
                    const Header now = header(folder_.file("lost"));
                    ASSERT_TRUE((now.backing_file == old_name && now.backing_format == "raw") ||
                                (now.backing_file == new_name && (new_name.empty() || now.backing_format == "qcow2")))
                        << now.backing_file << " of format " << now.backing_format;
                    ASSERT_TRUE(now.extensions == extensions);
                }
            }
            EXPECT_EQ(header(path_).backing_file, new_name);
        }
    }
}

}  // namespace
}  // namespace snapvm::disk
