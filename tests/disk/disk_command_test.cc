// SPDX-License-Identifier: Apache-2.0
// The commands `disk create` and `disk info`, as the command line calls them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

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
        Result<int> code = (*action)();
        out_ = ::testing::internal::GetCapturedStdout();
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

}  // namespace
}  // namespace snapvm::disk
