// SPDX-License-Identifier: Apache-2.0
// Part of each test program: the records of its snapshots, and those of the commands that it runs,
// go to a folder that ends with the program, and not to the user's own.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <memory>

#include "tests/support/scratch_folder.h"

namespace snapvm::test {
namespace {

class StateHome : public testing::Environment {
public:
    void SetUp() override {
        folder_ = std::make_unique<ScratchFolder>();
        ::setenv("XDG_STATE_HOME", folder_->path().c_str(), 1);
    }
    void TearDown() override { folder_.reset(); }

private:
    std::unique_ptr<ScratchFolder> folder_;
};

[[maybe_unused]] const testing::Environment* const kStateHome =
    testing::AddGlobalTestEnvironment(new StateHome);  // GoogleTest deletes it

}  // namespace
}  // namespace snapvm::test
