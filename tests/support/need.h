// SPDX-License-Identifier: Apache-2.0
// Gets the values of Results that a test needs, and limits how long a test waits.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <source_location>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>

#include "vmm/base/error.h"

namespace snapvm::test {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

/// Longer than anything takes, sanitizers and a busy host included. What has not come by then has
/// failed.
inline constexpr auto kPatience = 60s;
[[nodiscard]] inline SteadyClock::time_point soon() { return SteadyClock::now() + kPatience; }

/// Returns the value of a Result. If there is none, the test fails with the error's line and ends
/// (by an exception that GoogleTest reports).
template <class T>
T need(Result<T>&& result, std::source_location at = std::source_location::current()) {
    if (!result.has_value()) {
        throw std::runtime_error(std::string(at.file_name()) + ":" + std::to_string(at.line()) + ": " +
                                 result.error().message());
    }
    if constexpr (!std::is_void_v<T>) {
        return *std::move(result);
    }
}

/// Returns the error of a Result that must have failed. The message must be one line.
template <class T>
Error need_error(Result<T>&& result, std::source_location at = std::source_location::current()) {
    if (result.has_value()) {
        throw std::runtime_error(std::string(at.file_name()) + ":" + std::to_string(at.line()) +
                                 ": this was not refused");
    }
    EXPECT_EQ(result.error().message().find('\n'), std::string::npos);
    return result.error();
}

/// Returns whether a condition becomes true within kPatience.
template <class Condition>
[[nodiscard]] bool eventually(const Condition& condition) {
    for (const auto deadline = soon(); !condition();) {
        if (SteadyClock::now() > deadline) {
            return false;
        }
        std::this_thread::sleep_for(5ms);
    }
    return true;
}

}  // namespace snapvm::test
