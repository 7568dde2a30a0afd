// SPDX-License-Identifier: Apache-2.0
#include "vmm/doctor/timing.h"

#include <algorithm>

namespace snapvm::doctor {
namespace {

constexpr double kStandsOut = 4;

template <class Value>
double median_of(std::span<const ExitPair> pairs, Value value) {
    std::vector<double> samples;
    samples.reserve(pairs.size());
    for (const ExitPair& pair : pairs) {
        samples.push_back(value(pair));
    }
    return median(std::move(samples));
}

}  // namespace

double median(std::vector<double> samples) {
    const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
    std::ranges::nth_element(samples, middle);
    return *middle;
}

double exit_us(std::span<const ExitPair> pairs) {
    return median_of(pairs, [](const ExitPair& pair) { return pair.empty_us; });
}

double loop_us(std::span<const ExitPair> pairs) {
    return median_of(pairs, [](const ExitPair& pair) { return pair.loop_us - pair.empty_us; });
}

bool loop_stands_out(std::span<const ExitPair> pairs) { return loop_us(pairs) >= kStandsOut * exit_us(pairs); }

std::optional<double> instruction_ns(std::span<const ExitPair> pairs, double instructions) {
    const double loop = loop_us(pairs);
    return loop > 0 ? std::optional(loop * 1000 / instructions) : std::nullopt;
}

}  // namespace snapvm::doctor
