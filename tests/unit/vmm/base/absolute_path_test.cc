// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/absolute_path.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace snapvm {
namespace {

TEST(AbsolutePath, CountsFromTheCurrentFolder) {
    EXPECT_EQ(absolute_path("a/b").value(), (std::filesystem::current_path() / "a/b").string());
    EXPECT_EQ(absolute_path("/a/b").value(), "/a/b");
    EXPECT_EQ(absolute_path("").value(), "") << "so that it is still missing";
}

}  // namespace
}  // namespace snapvm
