// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/line_matcher.h"

#include <algorithm>
#include <regex>

namespace snapvm {
namespace {

// The most states of the automaton. libstdc++ follows empty transitions by recursion, so this
// limits the stack, too.
constexpr std::uint64_t kMaxStates = 4096;
constexpr auto kSlice = std::chrono::milliseconds(20);
// How long a line that matches may stay unfinished before it counts. Most lines end within that
// time and are returned whole; a prompt never ends.
constexpr auto kUnfinished = std::chrono::milliseconds(50);

using Clock = std::chrono::steady_clock;

// libstdc++ expands x{n} into n copies, and nested repeats multiply. The product of all repeat
// counts bounds the size, whatever their nesting.
bool too_large(std::string_view pattern) {
    std::uint64_t states = pattern.size();
    for (std::size_t at = pattern.find('{'); at != std::string_view::npos; at = pattern.find('{', at + 1)) {
        std::uint64_t largest = 1;
        std::uint64_t number = 0;
        for (std::size_t i = at + 1; i < pattern.size() && pattern[i] != '}'; ++i) {
            const bool digit = pattern[i] >= '0' && pattern[i] <= '9';
            number = digit ? std::min<std::uint64_t>(number * 10 + static_cast<std::uint64_t>(pattern[i] - '0'),
                                                     kMaxStates + 1)
                           : 0;
            largest = std::max(largest, number);
        }
        states *= largest;
        if (states > kMaxStates) {
            return true;
        }
    }
    return false;
}

// Checked here, because libstdc++ overflows an integer on a long back-reference before it refuses
// it.
bool has_back_reference(std::string_view pattern) {
    for (std::size_t i = 0; i + 1 < pattern.size(); ++i) {
        if (pattern[i] != '\\') {
            continue;
        }
        ++i;  // an escaped backslash escapes nothing
        if (pattern[i] >= '1' && pattern[i] <= '9') {
            return true;
        }
    }
    return false;
}

}  // namespace

struct LineMatcher::Pattern {
    std::regex regex;
};

LineMatcher::LineMatcher(std::unique_ptr<Pattern> pattern) : pattern_(std::move(pattern)) {}
LineMatcher::LineMatcher(LineMatcher&&) noexcept = default;
LineMatcher& LineMatcher::operator=(LineMatcher&&) noexcept = default;
LineMatcher::~LineMatcher() = default;

Result<LineMatcher> LineMatcher::compile(std::string_view pattern) {
    if (pattern.empty()) {
        return fail(ErrorKind::usage, "the regular expression is empty");
    }
    if (pattern.size() > kMaxPattern || too_large(pattern)) {
        return fail(ErrorKind::usage, "the regular expression is too large",
                    "write at most " + std::to_string(kMaxPattern) + " bytes and small repeat counts");
    }
    if (has_back_reference(pattern)) {
        return fail(ErrorKind::usage, "back-references are not supported in regular expressions");
    }
    // __polynomial is libstdc++'s extension: breadth-first search instead of backtracking, so that
    // (a+)+b terminates on a long line of a's, too. A pattern that needs backtracking
    // (back-references) throws.
    constexpr auto kFlags = std::regex::ECMAScript | std::regex::nosubs | std::regex_constants::__polynomial;
    try {
        // Compiled alone first: "a)(b" is wrong, but would be accepted between the parentheses
        // below.
        [[maybe_unused]] const std::regex alone(pattern.data(), pattern.size(), kFlags);
        // regex_search would restart at each byte of the line. A match of the whole line reads it
        // once.
        const std::string whole = R"([\s\S]*(?:)" + std::string(pattern) + R"()[\s\S]*)";
        return LineMatcher(std::make_unique<Pattern>(Pattern{std::regex(whole, kFlags)}));
    } catch (const std::exception& e) {
        return fail(ErrorKind::usage, "the regular expression is wrong: " + std::string(e.what()));
    }
}

bool LineMatcher::matches(std::string_view line) const {
    line = line.substr(0, kMaxLine);
    try {
        return std::regex_match(line.begin(), line.end(), pattern_->regex);
    } catch (const std::exception&) {
        return false;
    }
}

std::optional<std::string> wait_for_line(const Console& console, const LineMatcher& matcher, Clock::time_point deadline,
                                         const std::function<bool()>& given_up, const std::function<bool()>& over) {
    std::uint64_t position = console.oldest();
    std::string line;
    std::optional<Clock::time_point> settled;  // when a match of the unfinished line counts
    const auto append = [&](std::string_view bytes) {
        line.append(bytes.substr(0, LineMatcher::kMaxLine - line.size()));
    };
    while (true) {
        // Tested before the read, so that output from before the end is still read.
        const bool last = console.closed() || (over && over());
        const auto now = Clock::now();
        const Console::Chunk chunk =
            console.read(position, last ? now : std::min({deadline, now + kSlice, settled.value_or(deadline)}));
        if (chunk.next - chunk.bytes.size() != position) {
            line.clear();  // the ring lost output in between
        }
        position = chunk.next;
        std::string_view rest = chunk.bytes;
        for (std::size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
            append(rest.substr(0, end));
            rest.remove_prefix(end + 1);
            settled.reset();
            if (line.ends_with('\r')) {
                line.pop_back();
            }
            if (matcher.matches(line)) {
                return line;
            }
            line.clear();
            if (given_up && given_up()) {
                return std::nullopt;
            }
        }
        append(rest);
        const bool out_of_time = Clock::now() >= deadline || (chunk.bytes.empty() && last);
        if (!line.empty() && matcher.matches(line)) {
            settled = settled.value_or(Clock::now() + kUnfinished);
            if (out_of_time || Clock::now() >= *settled) {
                return line;
            }
        } else {
            settled.reset();
        }
        if (out_of_time || (given_up && given_up())) {
            return std::nullopt;
        }
    }
}

}  // namespace snapvm
