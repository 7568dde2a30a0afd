// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/error.h"

#include <cerrno>
#include <memory>

#include "tests/support/result_matchers.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

TEST(Error, OfASystemCallNamesCallObjectAndReason) {
    const Error error = Error::system("open", "/no/such", ENOENT, "create it first");
    EXPECT_EQ(error.kind(), ErrorKind::system);
    EXPECT_EQ(error.code(), ENOENT);
    EXPECT_EQ(error.call(), "open");
    EXPECT_EQ(error.object(), "/no/such");
    EXPECT_EQ(error.message(), "open /no/such: No such file or directory; create it first");
}

TEST(Error, OfASystemCallOnNothingHasNoGap) {
    EXPECT_EQ(Error::system("getrandom", "", EINTR).message(), "getrandom: Interrupted system call");
}

TEST(Error, ContextGoesInFrontAndLeavesTheRest) {
    const Error error = Error::system("read", "area", EIO, "try again").within("restore").within("machine a");
    EXPECT_EQ(error.message(), "machine a: restore: read area: Input/output error; try again");
    EXPECT_EQ(error.code(), EIO);
    EXPECT_EQ(error.call() + " " + error.object(), "read area");
}

TEST(Error, AdviceIsReplaced) {
    const Error error = Error(ErrorKind::busy, "name is in use", "old").advise("choose another");
    EXPECT_EQ(error.message(), "name is in use; choose another");
    EXPECT_EQ(error.kind(), ErrorKind::busy);
    EXPECT_EQ(error.call() + error.object(), "") << "no system call failed";
}

TEST(Error, ACopyIsItsOwnAndAMovedFromErrorIsEmpty) {
    Error error(ErrorKind::busy, "taken", "wait");
    Error copy = error;
    copy = std::move(copy).within("here");
    EXPECT_EQ(error.message(), "taken; wait");
    EXPECT_EQ(copy.message(), "here: taken; wait");
    copy = error;
    EXPECT_EQ(copy.message(), "taken; wait");
    const Error moved = std::move(error);
    EXPECT_EQ(moved.message(), "taken; wait");
    EXPECT_EQ(error.message(), "");  // NOLINT(bugprone-use-after-move)
    copy = error;                    // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(copy.kind(), ErrorKind::busy);
}

Result<int> half(int value) {
    if (value % 2 != 0) {
        return fail(ErrorKind::invalid, "odd");
    }
    return value / 2;
}
Result<std::string> quarter_text(int value) { return std::to_string(TRY(half(TRY(half(value))))); }
Status check(int value) {
    TRY(quarter_text(value));
    return {};
}
Result<std::unique_ptr<int>> boxed(int value) {
    std::unique_ptr<int> box = TRY(Result<std::unique_ptr<int>>(std::make_unique<int>(value)));
    return box;
}

TEST(Try, GivesTheValueOrReturnsTheErrorAndNests) {
    EXPECT_EQ(quarter_text(8).value(), "2");
    EXPECT_TRUE(test::fails(quarter_text(7), ErrorKind::invalid, "odd"));
    EXPECT_TRUE(test::fails(quarter_text(6), ErrorKind::invalid, "odd"));
    EXPECT_TRUE(test::ok(check(8)));
    EXPECT_TRUE(test::fails(check(6), ErrorKind::invalid, "odd"));
}

TEST(Try, MovesWhatCannotBeCopied) { EXPECT_EQ(*boxed(5).value(), 5); }

}  // namespace
}  // namespace snapvm
