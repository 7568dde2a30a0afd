// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/file_lock.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "tests/support/need.h"

namespace snapvm::test {
namespace {

// A number that no device has.
constexpr std::uint64_t kNumber = (0xFFFULL << 8) | 0xFF;
constexpr const char* kText = "4095:255";

TEST(LockFile, IsInAFolderOfTheUsersOwn) {
    if (!std::filesystem::exists("/dev/shm")) {
        GTEST_SKIP() << "there is no /dev/shm";
    }
    // What other users can make in /dev/shm does no harm: a link where the file once was.
    const std::string squatted = "/dev/shm/snapvm-block-" + std::string(kText) + ".lock";
    std::filesystem::remove(squatted);
    std::filesystem::create_symlink("/nonexistent", squatted);
    const std::string folder = "/dev/shm/snapvm-" + std::to_string(::geteuid());
    const UniqueFd file = need(open_lock_file(kNumber));
    struct stat info{};
    ASSERT_EQ(::lstat(folder.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0700U);
    EXPECT_EQ(info.st_uid, ::geteuid());
    const std::string path = folder + "/block-" + kText + ".lock";
    ASSERT_TRUE(std::filesystem::is_regular_file(path));
    const UniqueFd second = need(open_lock_file(kNumber));
    need(lock_range(file.get(), true, 0, 8, "it", "busy"));
    EXPECT_EQ(need_error(lock_range(second.get(), true, 0, 8, "it", "busy")).kind(), ErrorKind::busy);
    std::filesystem::remove(path);
    std::filesystem::remove(squatted);
}

}  // namespace
}  // namespace snapvm::test
