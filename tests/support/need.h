// SPDX-License-Identifier: Apache-2.0
// Results that a test needs, and how long it waits for what must come.
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

/// Longer than anything takes, sanitizers and a busy host included: what is waited for has failed when it passes.
inline constexpr auto kPatience = 60s;
[[nodiscard]] inline SteadyClock::time_point soon() { return SteadyClock::now() + kPatience; }

/// The value of a Result; where there is none, the test fails with the error's line and ends (by an exception that GoogleTest reports).
template <class T>
T need(Result<T>&& result, std::source_location at = std::source_location::current()) {
    if (!result.has_value()) {
        throw std::runtime_error(std::string(at.file_name()) + ":" + std::to_string(at.line()) + ": " + result.error().message());
    }
    if constexpr (!std::is_void_v<T>) {
        return *std::move(result);
    }
}

/// The error of a Result that must have failed with one line of message.
template <class T>
Error need_error(Result<T>&& result, std::source_location at = std::source_location::current()) {
    if (result.has_value()) {
        throw std::runtime_error(std::string(at.file_name()) + ":" + std::to_string(at.line()) + ": this was to be refused");
    }
    EXPECT_EQ(result.error().message().find('\n'), std::string::npos);
    return result.error();
}

/// Whether a condition comes true before our patience ends.
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
