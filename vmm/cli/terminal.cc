// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/terminal.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace snapvm::cli {
namespace {

constexpr char kEscape = '\x01';  // Ctrl-a
// Signals that end a process unless it catches them, and that others send or a bug causes.
constexpr std::array kFatalSignals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGABRT, SIGSEGV, SIGBUS};

// Used by the signal handler and by atexit. Written before raw_fd is set.
termios saved;
std::array<struct sigaction, kFatalSignals.size()> old_actions;
std::atomic<int> raw_fd = -1;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler reads it");

void restore_terminal() {
    if (const int fd = raw_fd.exchange(-1); fd >= 0) {
        ::tcsetattr(fd, TCSANOW, &saved);  // async-signal-safe: POSIX.1-2017, 2.4.3
    }
}

void on_fatal_signal(int number) {
    restore_terminal();
    // SA_RESETHAND has restored the default action. So this raise ends the process, and the parent
    // sees the signal's number.
    ::raise(number);
}

void catch_signals() {
    for (std::size_t i = 0; i < kFatalSignals.size(); ++i) {
        struct sigaction now{};
        ::sigaction(kFatalSignals[i], nullptr, &old_actions[i]);
        if (old_actions[i].sa_handler == SIG_DFL) {
            now.sa_handler = on_fatal_signal;
            now.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
            ::sigaction(kFatalSignals[i], &now, nullptr);
        }
    }
}

void release_signals() {
    for (std::size_t i = 0; i < kFatalSignals.size(); ++i) {
        ::sigaction(kFatalSignals[i], &old_actions[i], nullptr);
    }
}

}  // namespace

Result<RawTerminal> RawTerminal::enter(int fd) {
    if (::isatty(fd) == 0) {
        return RawTerminal(false);
    }
    if (raw_fd >= 0) {
        return fail(ErrorKind::busy, "the terminal is in raw mode already");
    }
    if (::tcgetattr(fd, &saved) != 0) {
        return fail(Error::system("tcgetattr", "the terminal", errno));
    }
    [[maybe_unused]] static const int registered = std::atexit(restore_terminal);
    termios raw = saved;
    ::cfmakeraw(&raw);
    raw.c_oflag = saved.c_oflag;
    raw_fd = fd;
    catch_signals();
    if (::tcsetattr(fd, TCSANOW, &raw) != 0) {
        const int error = errno;
        raw_fd = -1;
        release_signals();
        return fail(Error::system("tcsetattr", "the terminal", error));
    }
    return RawTerminal(true);
}

RawTerminal::RawTerminal(RawTerminal&& other) noexcept : active_(std::exchange(other.active_, false)) {}

RawTerminal::~RawTerminal() {
    if (active_) {
        restore_terminal();
        release_signals();
    }
}

EscapeFilter::Output EscapeFilter::feed(std::string_view typed) {
    Output out;
    for (const char key : typed) {
        if (!std::exchange(escaped_, false)) {
            if (key == kEscape) {
                escaped_ = true;
            } else {
                out.bytes.push_back(key);
            }
            continue;
        }
        if (key == 'x' || key == 'd') {
            out.action = key == 'x' ? Action::quit : Action::detach;
            return out;
        }
        out.bytes.push_back(kEscape);
        if (key != kEscape) {
            out.bytes.push_back(key);
        }
    }
    return out;
}

}  // namespace snapvm::cli
