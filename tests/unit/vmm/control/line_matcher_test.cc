// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <thread>

#include "vmm/control/line_matcher.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;

bool found(std::string_view pattern, std::string_view line) {
    const auto matcher = LineMatcher::compile(pattern);
    EXPECT_TRUE(matcher.has_value()) << pattern << ": " << matcher.error().message();
    return matcher && matcher->matches(line);
}

void print(Console& console, std::string_view text) {
    for (const char c : text) {
        console.put(static_cast<std::uint8_t>(c));
    }
}

TEST(LineMatcher, SearchesWithinTheLine) {
    EXPECT_TRUE(found("login:", "debian login: "));
    EXPECT_FALSE(found("^login:", "debian login: "));
    EXPECT_TRUE(found("^debian.*: $", "debian login: "));
    EXPECT_TRUE(found("a|b", "xxb"));
    EXPECT_FALSE(found("^(a|b)$", "xxb"));
    EXPECT_TRUE(found(R"(\d{4}-\d{2}-\d{2})", "on 2026-11-23."));
    EXPECT_TRUE(found("\\bOK\\b", "LEDGER OK 5"));
}

TEST(LineMatcher, RefusesWhatIsNoPattern) {
    for (const std::string pattern : {"", "(", "a)(b", "[", "a{2", "*", R"((a)\1)", R"((a)\99999999999999999999)"}) {
        const auto matcher = LineMatcher::compile(pattern);
        ASSERT_FALSE(matcher.has_value()) << pattern;
        EXPECT_EQ(matcher.error().kind(), ErrorKind::usage);
    }
    EXPECT_FALSE(LineMatcher::compile(std::string(LineMatcher::kMaxPattern + 1, 'a')).has_value());
    EXPECT_FALSE(LineMatcher::compile("((a{99}){99}){99}").has_value());
    EXPECT_FALSE(LineMatcher::compile("a{4294967297}").has_value());
}

// With backtracking each of these takes longer than the universe has.
TEST(LineMatcher, TakesLinearTimeForEveryPattern) {
    const std::string line(LineMatcher::kMaxLine * 2, 'a');
    EXPECT_FALSE(found("(a+)+b", line));
    EXPECT_FALSE(found("(a|a)*b", line));
    EXPECT_FALSE(found("(a*)*b$", line));
    EXPECT_FALSE(found("(.*)(.*)(.*)(.*)(.*)(.*)(.*)b", line));
}

// libstdc++ recurses over empty transitions: the largest pattern that is let through must fit a
// thread's stack.
TEST(LineMatcher, LargestPatternsFitTheStack) {
    EXPECT_TRUE(found("^(a?){350}$", std::string(350, 'a')));
    EXPECT_FALSE(found("(((a?)*)*){250}b", std::string(LineMatcher::kMaxLine, 'a')));
    EXPECT_TRUE(found(std::string(120, '(') + "a" + std::string(120, ')'), "a"));
}

TEST(WaitForLine, FindsWhatWasThereBefore) {
    Console console;
    print(console, "one\r\ntwo\r\nthree");
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    EXPECT_EQ(wait_for_line(console, *LineMatcher::compile("^two$"), deadline, {}, {}), "two");
    EXPECT_EQ(wait_for_line(console, *LineMatcher::compile("thr"), deadline, {}, {}), "three")
        << "an unfinished line counts";
}

TEST(WaitForLine, FindsALineThatComesInPieces) {
    Console console;
    std::thread writer([&] {
        for (const char* piece : {"he", "llo w", "orld\n"}) {
            std::this_thread::sleep_for(5ms);
            print(console, piece);
        }
    });
    EXPECT_EQ(
        wait_for_line(console, *LineMatcher::compile("^hello world"), std::chrono::steady_clock::now() + 10s, {}, {}),
        "hello world");
    writer.join();
}

TEST(WaitForLine, ReturnsTheWholeLineThoughItsStartMatches) {
    Console console;
    print(console, "LEDGER OK");
    std::thread writer([&] {
        std::this_thread::sleep_for(5ms);
        print(console, " steps=5\n");
    });
    EXPECT_EQ(wait_for_line(console, *LineMatcher::compile("^LEDGER"), std::chrono::steady_clock::now() + 10s, {}, {}),
              "LEDGER OK steps=5");
    writer.join();
}

TEST(WaitForLine, EndsAtTheDeadlineOnRequestAndAtTheEndOfOutput) {
    Console console;
    print(console, "nothing\n");
    const auto matcher = LineMatcher::compile("something");
    EXPECT_FALSE(wait_for_line(console, *matcher, std::chrono::steady_clock::now() + 30ms, {}, {}));
    const auto never = std::chrono::steady_clock::time_point::max();
    EXPECT_FALSE(wait_for_line(console, *matcher, never, [] { return true; }, {}));
    EXPECT_FALSE(wait_for_line(console, *matcher, never, {}, [] { return true; }));
    print(console, "something");
    console.close();
    EXPECT_EQ(wait_for_line(console, *matcher, never, {}, {}), "something") << "what came before the end is read";
}

TEST(WaitForLine, LooksAtTheStartOfAnEndlessLineOnly) {
    Console console;
    print(console, std::string(LineMatcher::kMaxLine, 'x') + "needle\nneedle\n");
    EXPECT_EQ(wait_for_line(console, *LineMatcher::compile("needle"), std::chrono::steady_clock::now() + 10s, {}, {}),
              "needle");
}

}  // namespace
}  // namespace snapvm
