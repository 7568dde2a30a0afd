// SPDX-License-Identifier: Apache-2.0
// The commands `disk create` and `disk info`, as the command line calls them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "devices/disk/image/info.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"
#include "vmm/base/fd.h"
#include "vmm/cli/commands.h"

namespace snapvm::disk {
namespace {

using test::fails;
using test::need;
using test::ok;

class DiskCommand : public ::testing::Test {
protected:
    // Runs `snapvm WORDS…` and keeps what it prints.
    Result<int> run(std::vector<std::string> words) {
        cli::Globals globals;
        cli::CommandLine line("snapvm", "", "1");
        line.program().flag("--json", globals.json, "");
        add_disk(line.program(), globals);
        std::vector<const char*> pointers = {"snapvm"};
        for (const std::string& word : words) {
            pointers.push_back(word.c_str());
        }
        const auto action = line.parse(static_cast<int>(pointers.size()), pointers.data());
        if (!action) {
            return fail(action.error());
        }
        ::testing::internal::CaptureStdout();
        ::testing::internal::CaptureStderr();
        Result<int> code = (*action)();
        out_ = ::testing::internal::GetCapturedStdout();
        err_ = ::testing::internal::GetCapturedStderr();
        return code;
    }
    [[nodiscard]] std::string file(const std::string& name) const { return folder_.file(name); }
    [[nodiscard]] std::string raw_file(const std::string& name, std::uint64_t size) const {
        const UniqueFd fd = need(open_file(file(name), O_CREAT | O_RDWR, 0600));
        EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
        return file(name);
    }
    [[nodiscard]] bool exists(const std::string& name) const { return std::filesystem::exists(file(name)); }

    std::string out_;
    std::string err_;

private:
    test::ScratchFolder folder_;
};

TEST_F(DiskCommand, MakesAnImage) {
    EXPECT_EQ(need(run({"disk", "create", file("a"), "--size", "20G"})), 0);
    EXPECT_EQ(out_, file("a") + ": qcow2, 20G\n");
    struct stat info{};
    ASSERT_EQ(::stat(file("a").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600U);
    const ImageInfo image = need(image_info(file("a"), "qcow2"));
    EXPECT_EQ(image.size, 20ULL << 30);
    EXPECT_EQ(image.header->version, 3U);
    EXPECT_EQ(image.header->cluster_size(), 128U << 10);
    EXPECT_TRUE(image.header->extended_l2());
    if (test::have_qemu_img()) {
        EXPECT_TRUE(test::is_clean(file("a")));
    }
}

TEST_F(DiskCommand, AnOverlayHasTheSizeOfItsBackingImage) {
    const std::string base = raw_file("base,one", 8 << 20);
    EXPECT_EQ(need(run({"--json", "disk", "create", file("a"), "--backing", base + ",format=raw"})), 0);
    const auto json = nlohmann::json::parse(out_);
    EXPECT_EQ(json["size"], 8 << 20);
    EXPECT_EQ(json["qcow2"]["backing_format"], "raw");
    EXPECT_EQ(need(run({"disk", "create", file("b"), "--size", "16M", "--backing", file("a") + ",format=qcow2"})), 0);
    EXPECT_EQ(out_, file("b") + ": qcow2, 16M, over a\n");
    EXPECT_EQ(err_, "") << "run needs nothing more";
}

// Names in the same folder are relative, so that the folder can be moved; QEMU finds them, too.
TEST_F(DiskCommand, QemuFindsTheBackingImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    std::filesystem::create_directory(file("other"));
    for (const char* const name : {"base", "with:colon", "other/base"}) {
        SCOPED_TRACE(name);
        const std::string base = raw_file(name, 1 << 20);
        test::qemu_io(base, {"write -P 5 0 64k"}, "raw");
        EXPECT_EQ(need(run({"disk", "create", file("top"), "--backing", base + ",format=raw"})), 0);
        test::qemu_io(file("top"), {"read -P 5 0 64k"});
        std::filesystem::remove(file("top"));
    }
    EXPECT_EQ(need(run({"disk", "create", file("top"), "--backing", file("base") + ",format=raw"})), 0);
    EXPECT_EQ(need(image_info(file("top"))).header->backing_file, "base");
    EXPECT_EQ(need(run({"disk", "create", file("far"), "--backing", file("other/base") + ",format=raw"})), 0);
    EXPECT_EQ(need(image_info(file("far"))).header->backing_file, file("other/base"));
}

TEST_F(DiskCommand, OverwritesNothing) {
    const std::string path = raw_file("a", 512);
    const auto result = run({"disk", "create", path, "--size", "1G"});
    EXPECT_TRUE(fails(result, ErrorKind::usage, "a exists, and snapvm disk create overwrites nothing"));
    EXPECT_TRUE(fails(result, ErrorKind::usage, "remove it first"));
    EXPECT_EQ(std::filesystem::file_size(path), 512U);
    ASSERT_EQ(::symlink("nowhere", file("link").c_str()), 0);
    EXPECT_TRUE(fails(run({"disk", "create", file("link"), "--size", "1G"}), ErrorKind::usage, "exists"));
    EXPECT_FALSE(exists("nowhere"));
}

TEST_F(DiskCommand, RefusesWhatIsNotPossible) {
    const std::string base = raw_file("base", 1 << 20);
    const auto expect_refused = [&](std::vector<std::string> words, ErrorKind kind, std::string_view part) {
        words.insert(words.begin(), {"disk", "create", file("a")});
        EXPECT_TRUE(fails(run(words), kind, part)) << words.back();
        EXPECT_FALSE(exists("a")) << words.back();
    };
    expect_refused({}, ErrorKind::usage, "--size is missing");
    expect_refused({"--size", "0"}, ErrorKind::usage, "a disk cannot have 0 bytes");
    expect_refused({"--size", "1000"}, ErrorKind::usage, "a disk cannot have 1000 bytes");
    expect_refused({"--size", "1X"}, ErrorKind::usage, "1X");
    expect_refused({"--size", "9000T"}, ErrorKind::usage, "too large for clusters of 128K");
    expect_refused({"--backing", base}, ErrorKind::usage, "does not say the format");
    expect_refused({"--backing", ",format=raw"}, ErrorKind::usage, "does not say the format");
    expect_refused({"--backing", base + ",format=vmdk"}, ErrorKind::usage, "no disks of format vmdk");
    expect_refused({"--backing", base + ",format="}, ErrorKind::usage, "does not say the format");
    expect_refused({"--backing", base + ",format=qcow2"}, ErrorKind::invalid, "magic number");
    expect_refused({"--backing", file("missing") + ",format=raw"}, ErrorKind::system, "missing");
    expect_refused({"--backing", raw_file("empty", 0) + ",format=raw"}, ErrorKind::usage, "0 bytes");
}

TEST_F(DiskCommand, AFolderThatIsMissingIsNamed) {
    EXPECT_TRUE(fails(run({"disk", "create", file("none/a"), "--size", "1G"}), ErrorKind::system, "none"));
}

TEST_F(DiskCommand, ShowsAnImage) {
    EXPECT_EQ(need(run({"disk", "info", raw_file("a", 1 << 20)})), 0);
    EXPECT_EQ(out_, to_text(need(image_info(file("a")))) + "\n");
    EXPECT_EQ(need(run({"disk", "info", file("a"), "--json"})), 0);
    EXPECT_EQ(nlohmann::json::parse(out_)["format"], "raw");
    EXPECT_TRUE(fails(run({"disk", "info", file("missing")}), ErrorKind::system, "missing"));
}

TEST_F(DiskCommand, ChecksAnImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    test::make_image(file("a"), 8 << 20, "cluster_size=64k");
    test::qemu_io(file("a"), {"write -P 5 0 1M"});
    EXPECT_EQ(need(run({"disk", "check", file("a")})), 0);
    EXPECT_EQ(out_, file("a") + ": good, 16 of 128 clusters allocated\n");
    EXPECT_EQ(need(run({"disk", "check", file("a"), "--json"})), 0);
    const auto json = nlohmann::json::parse(out_);
    EXPECT_EQ(json["ok"], true);
    EXPECT_EQ(json["allocated"], 16);
    EXPECT_EQ(json["clusters"], 128);
    EXPECT_EQ(need(run({"disk", "check", raw_file("r", 512)})), 0);
    EXPECT_EQ(out_, file("r") + ": raw, which has nothing to check\n");
    EXPECT_EQ(need(run({"disk", "check", file("a") + ",format=raw"})), 0);
    EXPECT_TRUE(fails(run({"disk", "check", file("r") + ",format=qcow2"}), ErrorKind::invalid, "magic number"));
    EXPECT_TRUE(fails(run({"disk", "check", file("r") + ",format=vdi"}), ErrorKind::usage, "no disks of format vdi"));
    EXPECT_TRUE(fails(run({"disk", "check", file("none")}), ErrorKind::system, "none"));
}

// Gives the first `count` clusters of the data in an image the reference count `value`.
void set_counts(const std::string& path, std::uint64_t first, std::uint64_t count, std::uint16_t value) {
    const UniqueFd fd = need(open_file(path, O_RDWR));
    std::vector<std::byte> table(8);
    const std::uint64_t offset = need(image_info(path)).header->refcount_table_offset;
    need(read_exactly_at(fd.get(), table, offset, path));
    std::uint64_t block = 0;
    for (const std::byte one : table) {
        block = block << 8 | std::to_integer<std::uint64_t>(one);
    }
    const std::array<std::byte, 2> bytes = {static_cast<std::byte>(value >> 8), static_cast<std::byte>(value)};
    for (std::uint64_t i = first; i < first + count; ++i) {
        need(write_all_at(fd.get(), bytes, block + i * bytes.size(), path));
    }
}

TEST_F(DiskCommand, RepairsAnImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    test::make_image(file("a"), 8 << 20, "cluster_size=64k");
    test::qemu_io(file("a"), {"write -P 5 0 1M"});
    set_counts(file("a"), 6, 2, 2);  // leaks
    set_counts(file("a"), 9, 1, 0);  // an error
    EXPECT_FALSE(test::is_clean(file("a")));
    const auto found = run({"disk", "check", file("a")});
    EXPECT_TRUE(fails(found, ErrorKind::invalid, "a has "));
    EXPECT_TRUE(fails(found, ErrorKind::invalid, "2 leaked clusters; repair it with --repair"));
    EXPECT_NE(out_.find("has the count 0 and 1 uses"), std::string::npos) << out_;
    EXPECT_EQ(need(run({"disk", "check", file("a"), "--json"})), 1);
    EXPECT_EQ(nlohmann::json::parse(out_)["leaks"], 2);
    EXPECT_EQ(need(run({"disk", "check", file("a"), "--repair"})), 0);
    EXPECT_NE(out_.find("a: repaired "), std::string::npos) << out_;
    EXPECT_TRUE(test::is_clean(file("a")));
    test::qemu_io(file("a"), {"read -P 5 0 1M"});
}

TEST_F(DiskCommand, AnImageInUseIsLeftAlone) {
    SNAPVM_REQUIRE_QEMU_IMG();
    test::make_image(file("a"), 8 << 20);
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    const auto machine = need(open_disk("root", file("a"), options));
    for (const std::vector<std::string>& words : {std::vector<std::string>{"disk", "check", file("a")},
                                                  {"disk", "check", file("a"), "--repair"},
                                                  {"disk", "resize", file("a") + ",format=qcow2", "16M"}}) {
        const auto refused = run(words);
        EXPECT_TRUE(fails(refused, ErrorKind::busy, "another machine")) << words[1];
        EXPECT_EQ(refused.error().advice(), "stop that machine, or unmount it, first");
    }
}

TEST_F(DiskCommand, ResizesAnImage) {
    EXPECT_EQ(need(run({"disk", "create", file("a"), "--size", "8M"})), 0);
    EXPECT_EQ(need(run({"disk", "resize", file("a") + ",format=qcow2", "2G"})), 0);
    EXPECT_EQ(out_, file("a") + " has 2G now\n");
    EXPECT_EQ(need(image_info(file("a"))).size, 2ULL << 30);
    EXPECT_EQ(need(run({"disk", "resize", raw_file("r", 1 << 20), "3M", "--json"})), 0);
    EXPECT_EQ(nlohmann::json::parse(out_)["size"], 3 << 20);
    EXPECT_EQ(std::filesystem::file_size(file("r")), 3U << 20);
    for (const std::string& image : {file("a") + ",format=qcow2", file("r")}) {
        EXPECT_TRUE(fails(run({"disk", "resize", image, "1M"}), ErrorKind::usage, "add --shrink"));
        EXPECT_EQ(need(run({"disk", "resize", image, "1M", "--shrink"})), 0);
    }
    EXPECT_EQ(need(image_info(file("a"))).size, 1U << 20);
    EXPECT_EQ(std::filesystem::file_size(file("r")), 1U << 20);
    if (test::have_qemu_img()) {
        EXPECT_TRUE(test::is_clean(file("a")));
    }
}

TEST_F(DiskCommand, RefusesToResize) {
    EXPECT_EQ(need(run({"disk", "create", file("a"), "--size", "8M"})), 0);
    const auto expect_refused = [&](const std::vector<std::string>& more, ErrorKind kind, std::string_view part) {
        std::vector<std::string> words = {"disk", "resize"};
        words.insert(words.end(), more.begin(), more.end());
        EXPECT_TRUE(fails(run(words), kind, part)) << more.back();
    };
    expect_refused({file("a"), "16M"}, ErrorKind::invalid, "add format=qcow2, or format=raw");
    expect_refused({file("a") + ",format=qcow2", "16777217"}, ErrorKind::usage, "16777217 bytes");
    expect_refused({file("a") + ",format=qcow2", "1X"}, ErrorKind::usage, "1X");
    expect_refused({file("a")}, ErrorKind::usage, "takes IMAGE SIZE, or NAME DISK SIZE");
    expect_refused({"vm", "root", "1G", "--shrink"}, ErrorKind::usage, "can only grow");
    expect_refused({file("none"), "1G"}, ErrorKind::system, "none");
    EXPECT_EQ(need(image_info(file("a"))).size, 8U << 20);
}

// What a header names is not read without the user's word.
TEST_F(DiskCommand, ABackingImageElsewhereMustBeNamed) {
    std::filesystem::create_directory(file("other"));
    const std::string base = raw_file("other/base", 8 << 20);
    EXPECT_EQ(need(run({"disk", "create", file("a"), "--size", "1M", "--backing", base + ",format=raw"})), 0);
    EXPECT_NE(err_.find("run wants it named: --disk id=ID,path=" + file("a") + ",format=qcow2,backing=" + base),
              std::string::npos)
        << err_;
    const std::string image = file("a") + ",format=qcow2";
    EXPECT_TRUE(fails(run({"disk", "resize", image, "16M"}), ErrorKind::usage, "name it: --backing " + base));
    EXPECT_EQ(need(run({"disk", "resize", image, "16M", "--backing", base})), 0);
    EXPECT_EQ(need(image_info(file("a"))).size, 16U << 20);
}

}  // namespace
}  // namespace snapvm::disk
