// SPDX-License-Identifier: Apache-2.0
// Assertions on Results.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

#include "vmm/base/error.h"

namespace snapvm::test {

/// EXPECT_TRUE(ok(result)) shows the message of the error if it fails.
template <class T>
::testing::AssertionResult ok(const Result<T>& result) {
    if (result.has_value()) {
        return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure() << result.error().message();
}

/// EXPECT_TRUE(fails(result, ErrorKind::invalid, "part of the message")) checks kind and message of
/// the error.
template <class T>
::testing::AssertionResult fails(const Result<T>& result, ErrorKind kind, std::string_view part = {}) {
    if (result.has_value()) {
        return ::testing::AssertionFailure() << "there is no error, and one is expected";
    }
    if (result.error().kind() != kind || result.error().message().find(part) == std::string::npos) {
        return ::testing::AssertionFailure()
               << "error of kind " << static_cast<int>(result.error().kind()) << ": " << result.error().message();
    }
    return ::testing::AssertionSuccess();
}

}  // namespace snapvm::test
