// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "vmm/base/fd.h"
#include "vmm/cli/terminal.h"

namespace snapvm::cli {
namespace {

using Action = EscapeFilter::Action;

TEST(EscapeFilter, PassesWhatIsNotOurs) {
    EscapeFilter filter;
    const auto out = filter.feed("ls -l\r\x03\x04");
    EXPECT_EQ(out.bytes, "ls -l\r\x03\x04");
    EXPECT_EQ(out.action, Action::none);
    EXPECT_EQ(filter.feed("\x01q").bytes, "\x01q") << "Ctrl-a with another key is the guest's";
    EXPECT_EQ(filter.feed("\x01\x01").bytes, "\x01") << "Ctrl-a twice is one for the guest";
}

TEST(EscapeFilter, FindsItsKeys) {
    EscapeFilter filter;
    const auto quit = filter.feed("a\x01xrest");
    EXPECT_EQ(quit.bytes, "a");
    EXPECT_EQ(quit.action, Action::quit);
    EXPECT_EQ(EscapeFilter()
                  .feed("\x01"
                        "d")
                  .action,
              Action::detach);
    EXPECT_EQ(EscapeFilter().feed("\x01\x01x").action, Action::none) << "an escaped Ctrl-a escapes nothing";
}

TEST(EscapeFilter, RemembersTheEscapeBetweenReads) {
    EscapeFilter filter;
    EXPECT_EQ(filter.feed("\x01").bytes, "");
    EXPECT_EQ(filter.feed("d").action, Action::detach);
}

constexpr std::array kEndings = {SIGTERM, SIGHUP, SIGINT, SIGPIPE};

class RawTerminalTest : public testing::Test {
protected:
    void SetUp() override {
        int main_end = -1;
        int terminal = -1;
        ASSERT_EQ(::openpty(&main_end, &terminal, nullptr, nullptr, nullptr), 0);
        main_ = UniqueFd(main_end);
        terminal_ = UniqueFd(terminal);
    }
    [[nodiscard]] bool is_raw() const {
        termios now{};
        EXPECT_EQ(::tcgetattr(terminal_.get(), &now), 0);
        return (now.c_lflag & static_cast<tcflag_t>(ICANON | ECHO | ISIG)) == 0;
    }
    /// Whether the terminal is itself again after a child that put it into raw mode ended by `end`.
    template <class End>
    int status_of(End end) {
        const pid_t child = ::fork();
        if (child == 0) {
            // A shell's background job, and nohup, ignore some of them.
            for (const int number : kEndings) {
                ::signal(number, SIG_DFL);
            }
            const auto raw = RawTerminal::enter(terminal_.get());
            if (!raw || !raw->active() || !is_raw()) {
                ::_exit(99);
            }
            end();
            ::_exit(98);
        }
        int status = 0;
        EXPECT_EQ(::waitpid(child, &status, 0), child);
        return status;
    }
    UniqueFd main_;
    UniqueFd terminal_;
};

TEST_F(RawTerminalTest, GoesBackAtTheEndOfItsScope) {
    EXPECT_FALSE(is_raw());
    {
        const auto raw = RawTerminal::enter(terminal_.get());
        ASSERT_TRUE(raw.has_value());
        EXPECT_TRUE(raw->active());
        EXPECT_TRUE(is_raw());
        termios now{};
        ::tcgetattr(terminal_.get(), &now);
        EXPECT_NE(now.c_oflag & static_cast<tcflag_t>(OPOST), 0U) << "a bare newline of the guest starts a line";
        EXPECT_FALSE(RawTerminal::enter(terminal_.get()).has_value()) << "one at a time";
    }
    EXPECT_FALSE(is_raw());
}

TEST_F(RawTerminalTest, GoesBackWhenASignalEndsTheProcess) {
    for (const int number : kEndings) {
        const int status = status_of([number] { ::raise(number); });
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == number)
            << "the parent sees the signal, status " << status;
        EXPECT_FALSE(is_raw()) << "signal " << number;
    }
}

TEST_F(RawTerminalTest, GoesBackAtExit) {
    const int status = status_of([] { std::exit(5); });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    EXPECT_FALSE(is_raw());
}

TEST(RawTerminal, LeavesAPipeAlone) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reading(ends[0]);
    const UniqueFd writing(ends[1]);
    const auto raw = RawTerminal::enter(reading.get());
    ASSERT_TRUE(raw.has_value());
    EXPECT_FALSE(raw->active());
}

}  // namespace
}  // namespace snapvm::cli
