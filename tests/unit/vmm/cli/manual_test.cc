// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/manual.h"

#include <gtest/gtest.h>

namespace snapvm::cli {
namespace {

class Manual : public testing::Test {
protected:
    Manual() {
        line_.program().option("--where DIR", text_, "the folder");
        Command program = line_.program();
        program.section("Things");
        Command copy = program.subcommand("copy", "copies a thing");
        copy.example("program copy a");
        copy.required("FROM", text_, "what .is copied");
        copy.flag("-f,--force", flag_, "a back\\slash");
        program.group("disk", "").subcommand("make", "makes one").flag("--quiet", flag_, "");
    }
    std::string text_;
    bool flag_ = false;
    CommandLine line_{"program", "copies", "1.2"};
};

TEST_F(Manual, APageHasEveryCommandAndOption) {
    const std::string page = man_page(line_.describe(), "1.2");
    for (const char* part : {".SH \"Things\"", ".SS copy\ncopies a thing.", "\\fB\\-f,\\-\\-force\\fR\na back\\eslash",
                             "\\fB\\-\\-where\\fR \\fIDIR\\fR\nthe folder", "\\fBFROM\\fR\nwhat .is copied",
                             ".SS disk make\nmakes one."}) {
        EXPECT_NE(page.find(part), std::string::npos) << part << " in " << page;
    }
}

TEST_F(Manual, TheCompletionKnowsTheOptionsOfEachCommand) {
    const std::string script = bash_completion(line_.describe());
    EXPECT_NE(script.find("copy) words='--help --force'"), std::string::npos) << script;
    EXPECT_NE(script.find("disk) words='--help make'"), std::string::npos) << script;
}

}  // namespace
}  // namespace snapvm::cli
