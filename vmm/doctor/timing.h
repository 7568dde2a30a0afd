// SPDX-License-Identifier: Apache-2.0
// Computes the doctor's results from its samples. The functions depend on the samples alone.
#pragma once

#include <optional>
#include <span>
#include <vector>

namespace snapvm::doctor {

/// Returns the middle sample by size; of two middle ones, the higher. There must be a sample.
[[nodiscard]] double median(std::vector<double> samples);

/// Two consecutive exits: one with nothing before it, and one after a loop.
struct ExitPair {
    double empty_us = 0;
    double loop_us = 0;
};
/// Returns the time of an exit with nothing before it.
[[nodiscard]] double exit_us(std::span<const ExitPair> pairs);
/// Returns the time of the loops, as the median of the pairs' differences. A disturbance of one
/// pair, or one that slows both exits of a pair, does not change it.
[[nodiscard]] double loop_us(std::span<const ExitPair> pairs);
/// Returns whether the loops take so much longer than the exits around them that noise in the exits
/// does not matter.
[[nodiscard]] bool loop_stands_out(std::span<const ExitPair> pairs);
/// Returns the time of one instruction. Each loop has `instructions`. Returns nothing if the loops
/// took no measurable time.
[[nodiscard]] std::optional<double> instruction_ns(std::span<const ExitPair> pairs, double instructions);

}  // namespace snapvm::doctor
