// SPDX-License-Identifier: Apache-2.0
// The snapvm binary on a terminal, as a user at a keyboard runs it.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <termios.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/need.h"
#include "vmm/base/fd.h"

namespace snapvm::test {

/// Runs `snapvm ARGUMENTS…` with a new pseudo-terminal for all three streams. The destructor kills
/// it.
class TerminalCommand {
public:
    TerminalCommand(const std::vector<std::string>& arguments, std::uint16_t columns, std::uint16_t rows);
    TerminalCommand(const TerminalCommand&) = delete;
    TerminalCommand& operator=(const TerminalCommand&) = delete;
    ~TerminalCommand();

    void type(std::string_view keys);
    /// Waits until `text` is on the screen, and removes it and everything before it. Returns false
    /// if it does not come in time.
    bool wait_for(std::string_view text, std::chrono::seconds patience = kPatience) {
        return take_until(text, patience).has_value();
    }
    /// Does the same as wait_for(), and returns what was before the text.
    std::optional<std::string> take_until(std::string_view text, std::chrono::seconds patience = kPatience);
    void signal(int number) const { ::kill(pid_, number); }
    void resize(std::uint16_t columns, std::uint16_t rows);
    /// Return the terminal's settings now, and before the command started.
    [[nodiscard]] termios settings() const;
    [[nodiscard]] const termios& settings_before() const { return before_; }
    /// Waits until the command ends. Returns its exit code, 128 + signal, or -1 if it does not end
    /// in time.
    int exit_code(std::chrono::seconds patience = kPatience);
    /// Returns what came on the screen and was not yet removed by a wait.
    [[nodiscard]] const std::string& screen() const { return screen_; }

private:
    UniqueFd keyboard_;  ///< the other end of the pseudo-terminal
    UniqueFd terminal_;  ///< kept open, so that the settings outlive the command
    termios before_{};
    pid_t pid_ = -1;
    std::string screen_;
};

}  // namespace snapvm::test
