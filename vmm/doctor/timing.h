// SPDX-License-Identifier: Apache-2.0
// The arithmetic of what the doctor measures. Pure functions of the samples.
#pragma once

#include <optional>
#include <span>
#include <vector>

namespace snapvm::doctor {

/// The middle one by size; the higher of two. There must be a sample.
[[nodiscard]] double median(std::vector<double> samples);

/// Two exits, one right after the other: with nothing before it, and with a loop.
struct ExitPair {
    double empty_us = 0;
    double loop_us = 0;
};
/// An exit with nothing before it.
[[nodiscard]] double exit_us(std::span<const ExitPair> pairs);
/// What the loops cost, as the median of the pairs' differences: what disturbs one pair, or makes both of its exits slow, does not move it.
[[nodiscard]] double loop_us(std::span<const ExitPair> pairs);
/// Whether the loops cost so much more than the exits they are measured between that noise in those does not matter.
[[nodiscard]] bool loop_stands_out(std::span<const ExitPair> pairs);
/// An instruction of the loops, each of which has `instructions`; nothing where the difference is none.
[[nodiscard]] std::optional<double> instruction_ns(std::span<const ExitPair> pairs, double instructions);

}  // namespace snapvm::doctor
