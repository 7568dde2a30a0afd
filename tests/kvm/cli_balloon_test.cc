// SPDX-License-Identifier: Apache-2.0
// The balloon as its user sees it. This guest has no driver for it, so no memory is taken; the
// target is kept.
#include "tests/kvm/cli_fixture.h"

namespace snapvm::test {
namespace {

TEST_F(Cli, TheBalloonsSizeIsSetShownAndRestored) {
    const CommandResult started = run_ledger("ws=4M", "", {"-d", "--name", "a", "--balloon", "size=2M"});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    EXPECT_EQ(json_of({"balloon", "a"})["target_mib"], 2);
    EXPECT_EQ(json_of({"balloon", "a", "--size", "16M"})["target_pages"], 4096);
    const CommandResult shown = command({"balloon", "a"});
    EXPECT_EQ(shown.exit_code, 0);
    EXPECT_NE(shown.out.find("actual_mib"), std::string::npos) << shown.out;
    const CommandResult too_much = command({"balloon", "a", "--size", "65M"});
    EXPECT_EQ(too_much.exit_code, 1);
    EXPECT_NE(too_much.err.find("at most the machine's memory"), std::string::npos) << too_much.err;
    EXPECT_EQ(command({"balloon", "a", "--size", "1K"}).exit_code, 2);

    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area, "--then", "stop"}).exit_code, 0);
    ASSERT_EQ(command({"restore", area, "-d", "--name", "b"}).exit_code, 0);
    EXPECT_EQ(json_of({"balloon", "b"})["target_mib"], 16);
}

// A machine without a balloon, or whose guest has no driver, is snapshotted at once and whole.
TEST_F(Cli, NothingIsReleasedWhereNobodyCanBeAsked) {
    const CommandResult started = run_ledger("ws=4M", "", {"-d", "--name", "a", "--balloon", "size=0"});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    start("b");
    for (const char* name : {"a", "b"}) {
        const json report = json_of({"snapshot", "--release-free", name, scratch_.file(name)});
        EXPECT_EQ(report["released_bytes"], 0) << report;
        EXPECT_GT(report["pages"]["common"], 0);
        EXPECT_EQ(json_of({"snapshot", name, scratch_.file(name), "--release-free=16M"})["released_bytes"], 0);
        EXPECT_EQ(command({"snapshot", name, scratch_.file(name), "--release-free=lots"}).exit_code, 2);
    }
}

TEST_F(Cli, AMachineWithoutABalloonSaysSo) {
    start("a");
    const CommandResult refused = command({"balloon", "a", "--size", "1M"});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.err.find("has no balloon"), std::string::npos) << refused.err;
    for (const char* bad : {"size=65M", "size=1K", "16M"}) {
        EXPECT_EQ(run_ledger("ws=4M", "", {"--balloon", bad}).exit_code, 2) << bad;
    }
}

}  // namespace
}  // namespace snapvm::test
