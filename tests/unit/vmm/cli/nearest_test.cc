// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace snapvm::cli {
namespace {

TEST(Nearest, IsFewestEditsAway) {
    const std::vector<std::string> words = {"run", "restore", "resume", "snapshot", "--name", "--mem", "ps"};
    EXPECT_EQ(nearest("restroe", words), "restore");
    EXPECT_EQ(nearest("resmue", words), "resume");
    EXPECT_EQ(nearest("snapshots", words), "snapshot");
    EXPECT_EQ(nearest("--nmae", words), "--name");
    EXPECT_EQ(nearest("rnu", words), "run");
    EXPECT_EQ(nearest("p", words), "ps");
    EXPECT_EQ(nearest("run", words), "run");
}

TEST(Nearest, IsNothingIfNoWordIsNear) {
    const std::vector<std::string> words = {"run", "restore"};
    EXPECT_EQ(nearest("fly", words), "");
    EXPECT_EQ(nearest("", words), "");
    EXPECT_EQ(nearest(std::string(100'000, 'r'), words), "");
    EXPECT_EQ(nearest("run", {}), "");
}

}  // namespace
}  // namespace snapvm::cli
