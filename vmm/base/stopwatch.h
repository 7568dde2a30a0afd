// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>

namespace snapvm {

/// Measures the time since its construction, or since a given time point.
class Stopwatch {
public:
    using Clock = std::chrono::steady_clock;

    Stopwatch() = default;
    explicit Stopwatch(Clock::time_point start) : start_(start) {}
    [[nodiscard]] std::uint64_t us() const { return us_until(Clock::now()); }
    [[nodiscard]] std::uint64_t us_until(Clock::time_point end) const {
        return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(end - start_).count());
    }

private:
    Clock::time_point start_ = Clock::now();
};

}  // namespace snapvm
