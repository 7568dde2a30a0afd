// SPDX-License-Identifier: Apache-2.0
// How words become the variables of a command.
#include "vmm/cli/command_line.h"

#include <gtest/gtest.h>

namespace snapvm::cli {
namespace {

// A program with one command that has an option of each kind, and a group with one command.
class CommandLineTest : public testing::Test {
protected:
    CommandLineTest() {
        line_.program().option("--where", where_, "");
        copy_.required("FROM", from_, "");
        copy_.required("--to", to_, "");
        copy_.option("--how", how_, {"fast", "safe"}, "");
        copy_.option("--times", times_, "");
        copy_.option("--level", level_, 1, 9, "");
        copy_.list("--skip", skipped_, "");
        copy_.flag("-f,--force", force_, "");
        copy_.flag("--limit", limit_, "");
        copy_.option("--note", [this](const std::string& text) { note_ = text + "!"; }, "");
        copy_.action([this]() -> Result<int> { return copy_.given("--times") ? 10 : 11; });
        Command make = line_.program().group("disk", "").subcommand("make", "");
        make.flag("--sparse", sparse_, "");
        const std::size_t shape = make.options();
        make.flag("--quiet", quiet_, "");
        make.action([this, make, shape]() -> Result<int> {
            first_given_ = make.first_given(shape);
            return 12;
        });
    }

    // Returns what the chosen action returns, or the message of the error.
    std::string run(std::vector<const char*> words) {
        words.insert(words.begin(), "program");
        const Result<Action> action = line_.parse(static_cast<int>(words.size()), words.data());
        if (!action) {
            EXPECT_EQ(action.error().kind(), ErrorKind::usage);
            return action.error().message();
        }
        return std::to_string((*action)().value_or(-1));
    }

    std::string where_, from_, to_, limit_, note_, first_given_;
    std::string how_ = "fast";
    std::uint32_t times_ = 3;
    std::uint32_t level_ = 5;
    std::vector<std::string> skipped_;
    bool force_ = false;
    bool sparse_ = false;
    bool quiet_ = false;
    CommandLine line_{"program", "copies", "1.2"};
    Command copy_ = line_.program().subcommand("copy", "copies a thing");
};

TEST_F(CommandLineTest, WhatIsNotGivenKeepsItsDefault) {
    EXPECT_EQ(run({"copy", "a", "--to", "b"}), "11");
    EXPECT_EQ(from_, "a");
    EXPECT_EQ(to_, "b");
    EXPECT_EQ(how_, "fast");
    EXPECT_EQ(times_, 3U);
    EXPECT_EQ(level_, 5U);
    EXPECT_TRUE(skipped_.empty());
    EXPECT_FALSE(force_);
    EXPECT_EQ(limit_, "");
}

TEST_F(CommandLineTest, WhatIsGivenReachesItsVariable) {
    EXPECT_EQ(run({"copy", "--how", "safe", "--times", "7", "--level=9", "--skip", "x", "--skip", "y", "-f",
                   "--limit=4K", "--note", "hm", "--to=b", "a", "--where", "here"}),
              "10");
    EXPECT_EQ(from_, "a");
    EXPECT_EQ(how_, "safe");
    EXPECT_EQ(times_, 7U);
    EXPECT_EQ(level_, 9U);
    EXPECT_EQ(skipped_, (std::vector<std::string>{"x", "y"}));
    EXPECT_TRUE(force_);
    EXPECT_EQ(limit_, "4K");
    EXPECT_EQ(note_, "hm!");
    EXPECT_EQ(where_, "here");
}

TEST_F(CommandLineTest, AFlagWithoutItsValueIsTrueAndTakesNoFollowingWord) {
    EXPECT_EQ(run({"copy", "--to", "b", "--limit", "a"}), "11");
    EXPECT_EQ(limit_, "true");
    EXPECT_EQ(from_, "a");
}

TEST_F(CommandLineTest, WrongUsageNamesTheOption) {
    const std::pair<std::vector<const char*>, const char*> cases[] = {
        {{}, "subcommand"},
        {{"fly"}, "fly"},
        {{"copy", "--to", "b"}, "FROM"},
        {{"copy", "a"}, "--to"},
        {{"copy", "a", "b", "--to", "c"}, "b"},
        {{"copy", "a", "--to", "b", "--how", "slow"}, "--how"},
        {{"copy", "a", "--to", "b", "--times", "-1"}, "--times"},
        {{"copy", "a", "--to", "b", "--level", "10"}, "--level"},
        {{"copy", "a", "--to", "b", "--to", "c"}, "--to"},
        {{"copy", "a", "--to", "b", "--warp"}, "--warp"},
        {{"disk"}, "subcommand"},
    };
    for (const auto& [words, named] : cases) {
        const std::string message = run(words);
        EXPECT_NE(message.find(named), std::string::npos) << message;
    }
}

TEST_F(CommandLineTest, ACommandOfAGroupIsChosen) { EXPECT_EQ(run({"disk", "make"}), "12"); }

TEST_F(CommandLineTest, FirstGivenLooksAtNoLaterOptionThanAsked) {
    EXPECT_EQ(run({"disk", "make", "--quiet"}), "12");
    EXPECT_EQ(first_given_, "");
    EXPECT_EQ(run({"disk", "make", "--quiet", "--sparse"}), "12");
    EXPECT_EQ(first_given_, "--sparse");
}

TEST_F(CommandLineTest, HelpAndVersionAreNoErrors) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(run({"--version"}), "0");
    EXPECT_EQ(run({"copy", "--help"}), "0");
    const std::string shown = testing::internal::GetCapturedStdout();
    EXPECT_TRUE(shown.starts_with("1.2\n")) << shown;
    EXPECT_NE(shown.find("copies a thing"), std::string::npos) << shown;
    EXPECT_NE(shown.find("--how fast|safe"), std::string::npos) << shown;
}

TEST_F(CommandLineTest, AMistypedWordIsNamedWithTheNearestRightOne) {
    EXPECT_EQ(run({"copy", "a", "--to", "b", "--tiems", "3"}),
              "program copy has no option --tiems: did you mean --times?; see program copy --help");
    EXPECT_EQ(run({"copy", "a", "--to", "b", "--levle=3"}),
              "program copy has no option --levle: did you mean --level?; see program copy --help");
    EXPECT_EQ(run({"copy", "a", "--to", "b", "--colour"}),
              "program copy has no option --colour; see program copy --help");
    EXPECT_EQ(run({"copy", "a", "--to", "b", "--wher", "c"}),
              "program copy has no option --wher: did you mean --where?; see program copy --help");
    EXPECT_EQ(run({"copy", "a", "--to", "b", "c"}), "program copy takes no argument \"c\"; see program copy --help");
    EXPECT_EQ(run({"coyp"}), "program has no command coyp: did you mean copy?; see program --help");
    EXPECT_EQ(run({"fly"}), "program has no command fly; see program --help");
    EXPECT_EQ(run({"disk", "mkae"}), "program disk has no command mkae: did you mean make?; see program disk --help");
}

}  // namespace
}  // namespace snapvm::cli
