// SPDX-License-Identifier: Apache-2.0
#include "tests/support/terminal_command.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utmp.h>

#include <array>
#include <chrono>
#include <thread>

#include "tests/support/paths.h"

namespace snapvm::test {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

TerminalCommand::TerminalCommand(const std::vector<std::string>& arguments, std::uint16_t columns, std::uint16_t rows) {
    int keyboard = -1;
    int terminal = -1;
    winsize size{};
    size.ws_col = columns;
    size.ws_row = rows;
    if (::openpty(&keyboard, &terminal, nullptr, nullptr, &size) != 0) {
        return;
    }
    keyboard_ = UniqueFd(keyboard);
    terminal_ = UniqueFd(terminal);
    before_ = settings();
    std::vector<std::string> words = {snapvm_program()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
        ::close(keyboard);
        if (::login_tty(terminal) == 0) {  // starts a session with this terminal
            ::execv(argv.front(), argv.data());
        }
        ::_exit(127);
    }
}

TerminalCommand::~TerminalCommand() {
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
}

void TerminalCommand::type(std::string_view keys) {
    (void)write_all(keyboard_.get(), std::as_bytes(std::span(keys)), "keyboard");
}

std::optional<std::string> TerminalCommand::take_until(std::string_view text, std::chrono::seconds patience) {
    const Clock::time_point limit = Clock::now() + patience;
    while (true) {
        if (const std::size_t at = screen_.find(text); at != std::string::npos) {
            std::string before = screen_.substr(0, at);
            screen_.erase(0, at + text.size());
            return before;
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(limit - Clock::now()).count();
        pollfd ready{keyboard_.get(), POLLIN, 0};
        if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) <= 0) {
            return std::nullopt;
        }
        std::array<char, 4096> chunk;
        const ssize_t got = ::read(keyboard_.get(), chunk.data(), chunk.size());
        if (got <= 0) {
            return std::nullopt;
        }
        screen_.append(chunk.data(), static_cast<std::size_t>(got));
    }
}

void TerminalCommand::resize(std::uint16_t columns, std::uint16_t rows) {
    winsize size{};
    size.ws_col = columns;
    size.ws_row = rows;
    (void)::ioctl(keyboard_.get(), TIOCSWINSZ, &size);
}

termios TerminalCommand::settings() const {
    termios now{};
    (void)::tcgetattr(terminal_.get(), &now);
    return now;
}

int TerminalCommand::exit_code(std::chrono::seconds patience) {
    for (const Clock::time_point limit = Clock::now() + patience; Clock::now() < limit;) {
        int status = 0;
        if (::waitpid(pid_, &status, WNOHANG) == pid_) {
            pid_ = -1;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return -1;
}

}  // namespace snapvm::test
