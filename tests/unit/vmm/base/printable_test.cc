// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/printable.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace snapvm {
namespace {

TEST(Printable, TextStaysAsItIs) {
    for (const char* text : {"", "plain /path_1", "tab\tstop", "größer", "日本語", "\xf0\x9f\x90\xa7", "a\\x1b"}) {
        EXPECT_EQ(printable(text), text);
        EXPECT_EQ(printable_lines(text), text);
    }
    EXPECT_EQ(printable(printable("\x1b")), printable("\x1b"));
}

TEST(Printable, WhatATerminalObeysIsShown) {
    EXPECT_EQ(printable("\x1b]0;title\x07\x1b[2J"), R"(\x1b]0;title\x07\x1b[2J)");
    EXPECT_EQ(printable("a\r\nb\x7f"), R"(a\x0d\x0ab\x7f)");
    EXPECT_EQ(printable_lines("a\r\nb\n"), "a\\x0d\nb\n");
    EXPECT_EQ(printable("\xc2\x9b"
                        "31m"),
              R"(\xc2\x9b31m)")
        << "CSI of ISO 6429";
    EXPECT_EQ(printable("\xe2\x80\xae"
                        "txt"),
              R"(\xe2\x80\xaetxt)")
        << "right to left";
    EXPECT_EQ(printable(std::string_view("\0", 1)), R"(\x00)");
}

TEST(Printable, BytesThatAreNoUtf8AreShown) {
    EXPECT_EQ(printable("\xff"), R"(\xff)");
    EXPECT_EQ(printable("\x80x"), R"(\x80x)");
    EXPECT_EQ(printable("\xc3"), R"(\xc3)") << "cut off";
    EXPECT_EQ(printable("\xe2\x82"), R"(\xe2\x82)");
    EXPECT_EQ(printable("\xc0\x9b"), R"(\xc0\x9b)") << "overlong";
    EXPECT_EQ(printable("\xe0\x80\x9b"), R"(\xe0\x80\x9b)");
    EXPECT_EQ(printable("\xed\xa0\x80"), R"(\xed\xa0\x80)") << "a surrogate";
    EXPECT_EQ(printable("\xf4\x90\x80\x80"), R"(\xf4\x90\x80\x80)") << "above the last character";
    EXPECT_EQ(printable("\xff\xc3\xa4"), "\\xff\xc3\xa4");
}

TEST(Printable, JsonIsAlwaysValidAndObeyedByNoTerminal) {
    const nlohmann::json value = {{"a", "\x1b[2J\x7f\xc2\x9b"}, {"b", "\xff\xe2\x80\xae"}, {"ä", "ö"}};
    const std::string text = json_text(value);
    EXPECT_EQ(text, printable(text));
    const nlohmann::json back = nlohmann::json::parse(text);
    EXPECT_EQ(back["a"], value["a"]);
    EXPECT_EQ(back["b"], "\xef\xbf\xbd\xe2\x80\xae") << "the byte is replaced";
    EXPECT_EQ(back["ä"], "ö");
}

}  // namespace
}  // namespace snapvm
