// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/size_text.h"

#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace snapvm {
namespace {

// 100 years. Callers add durations to clocks, which count nanoseconds in 63 bits.
constexpr std::uint64_t kLongest = 3'155'760'000ULL * 1'000'000;

// Returns the number that the leading digits of `text` make, and the text after them.
Result<std::pair<std::uint64_t, std::string_view>> leading_number(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) {
        return fail(ErrorKind::usage, "\"" + std::string(text) + "\" is not a number, or is too large");
    }
    return std::pair{number, text.substr(static_cast<std::size_t>(end - text.data()))};
}

Result<std::uint64_t> multiply(std::uint64_t number, std::uint64_t factor, std::string_view text) {
    if (number > std::numeric_limits<std::uint64_t>::max() / factor) {
        return fail(ErrorKind::usage, "\"" + std::string(text) + "\" is too large");
    }
    return number * factor;
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
    const auto number = leading_number(text);
    if (!number) {
        return fail(number.error());
    }
    constexpr std::string_view kUnits = "kmgt";
    const auto [value, unit] = *number;
    if (unit.empty()) {
        return value;
    }
    const std::size_t power = kUnits.find(static_cast<char>(unit[0] | 0x20));
    const std::string_view rest = unit.substr(1);
    const bool known = rest.empty() || rest == "B" || rest == "iB" || rest == "b" || rest == "ib";
    if (power == std::string_view::npos || !known) {
        return fail(ErrorKind::usage, "\"" + std::string(text) + "\" is not a size", "write 4096, 64K, 256M, 4G or 1T");
    }
    return multiply(value, 1ULL << (10 * (power + 1)), text);
}

Result<std::uint64_t> parse_memory_size(std::string_view text) {
    const auto number = leading_number(text);
    return number && number->second.empty() ? multiply(number->first, 1ULL << 20, text) : parse_size(text);
}

std::string size_text(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 5> kUnits = {"", "K", "M", "G", "T"};
    std::size_t unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < kUnits.size()) {
        bytes /= 1024;
        ++unit;
    }
    return std::to_string(bytes).append(kUnits[unit]);
}

std::string count_text(std::uint64_t count, std::string_view thing) {
    return std::to_string(count).append(" ").append(thing).append(count == 1 ? "" : "s");
}

Result<std::chrono::microseconds> parse_duration(std::string_view text) {
    const auto number = leading_number(text);
    if (!number) {
        return fail(number.error());
    }
    const auto [value, unit] = *number;
    constexpr std::array<std::pair<std::string_view, std::uint64_t>, 5> kUnits = {
        {{"", 1'000'000}, {"us", 1}, {"ms", 1'000}, {"s", 1'000'000}, {"m", 60'000'000}}};
    for (const auto& [name, factor] : kUnits) {
        if (unit == name) {
            const auto micros = multiply(value, factor, text);
            if (!micros) {
                return fail(micros.error());
            }
            if (*micros > kLongest) {
                return fail(ErrorKind::usage, "\"" + std::string(text) + "\" is too long", "give at most 100 years");
            }
            return std::chrono::microseconds(static_cast<std::int64_t>(*micros));
        }
    }
    return fail(ErrorKind::usage, "\"" + std::string(text) + "\" is not a duration", "write 250us, 10ms, 60s or 2m");
}

}  // namespace snapvm
