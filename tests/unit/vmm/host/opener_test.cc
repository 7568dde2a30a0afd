// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/opener.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm {
namespace {

namespace fs = std::filesystem;

using test::fails;
using test::need;
using test::ok;

class HostOpenerTest : public ::testing::Test {
protected:
    void SetUp() override {
        for (const char* folder : {"one", "two"}) {
            fs::create_directory(scratch_.file(folder));
            need(write_all(need(open_file(scratch_.file(folder) + "/file", O_WRONLY | O_CREAT, 0600)).get(),
                           std::as_bytes(std::span(std::string_view(folder))), folder));
        }
        fs::current_path(scratch_.file("one"));
    }
    void TearDown() override { fs::current_path(before_); }

    test::ScratchFolder scratch_;
    const fs::path before_ = fs::current_path();
};

TEST_F(HostOpenerTest, ARelativePathMeansTheSameAfterAChangeOfDirectory) {
    const auto taken = need(HostOpener::take());
    fs::current_path(scratch_.file("two"));
    EXPECT_EQ(need(read_file("file", 10)), "one");
    EXPECT_EQ(need(read_file("./../two/file", 10)), "two");
    fs::rename(scratch_.file("one"), scratch_.file("three"));
    EXPECT_EQ(need(read_file("file", 10)), "one");
}

TEST_F(HostOpenerTest, AnAbsolutePathStartsFromTheRoot) {
    const auto taken = need(HostOpener::take());
    EXPECT_EQ(need(read_file(scratch_.file("two") + "/file", 10)), "two");
    EXPECT_EQ(need(read_file("//" + scratch_.file("two") + "/file", 10)), "two");
    const UniqueFd root = need(open_file("/", O_RDONLY | O_DIRECTORY));
    EXPECT_EQ(fs::read_symlink("/proc/self/fd/" + std::to_string(root.get())), "/");
    EXPECT_EQ(::fcntl(root.get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(HostOpenerTest, ErrorsNameThePathAsItWasGiven) {
    const auto taken = need(HostOpener::take());
    EXPECT_TRUE(fails(open_file("/nowhere/file", O_RDONLY), ErrorKind::system, "open /nowhere/file"));
    EXPECT_TRUE(fails(open_file("", O_RDONLY), ErrorKind::system, "No such file"));
    EXPECT_EQ(open_file("nothing", O_RDONLY).error().code(), ENOENT);
}

TEST_F(HostOpenerTest, IsTheProcesssOpenerAsLongAsItIsThere) {
    const Opener& plain = opener();
    {
        const auto taken = need(HostOpener::take());
        EXPECT_EQ(&opener(), taken.get());
    }
    EXPECT_EQ(&opener(), &plain);
    fs::current_path(scratch_.file("two"));
    EXPECT_EQ(need(read_file("file", 10)), "two");
}

TEST_F(HostOpenerTest, AnEntryStaysThatOfItsFolder) {
    const FolderEntry entry = need(FolderEntry::of(scratch_.file("one") + "/file"));
    struct stat file{};
    ASSERT_TRUE(entry.find(file));
    fs::rename(scratch_.file("one"), scratch_.file("three"));
    fs::rename(scratch_.file("two"), scratch_.file("one"));
    EXPECT_TRUE(entry.is(file));
    EXPECT_TRUE(entry.remove());
    EXPECT_FALSE(entry.is(file));
    EXPECT_FALSE(fs::exists(scratch_.file("three") + "/file"));
    EXPECT_TRUE(fs::exists(scratch_.file("one") + "/file"));
    EXPECT_TRUE(fails(FolderEntry::of(scratch_.file("two") + "/file"), ErrorKind::system, "two"));
}

}  // namespace
}  // namespace snapvm
