// SPDX-License-Identifier: Apache-2.0
// The snapvm binary on a terminal, as a user at a keyboard has it.
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

/// `snapvm ARGUMENTS…` with a pseudo-terminal of its own for all three streams. Killed with the object.
class TerminalCommand {
public:
    TerminalCommand(const std::vector<std::string>& arguments, std::uint16_t columns, std::uint16_t rows);
    TerminalCommand(const TerminalCommand&) = delete;
    TerminalCommand& operator=(const TerminalCommand&) = delete;
    ~TerminalCommand();

    void type(std::string_view keys);
    /// Waits until `text` is on the screen, and takes it away with all before it; false when it does not come in time.
    bool wait_for(std::string_view text, std::chrono::seconds patience = kPatience) {
        return take_until(text, patience).has_value();
    }
    /// The same; returns what was before it.
    std::optional<std::string> take_until(std::string_view text, std::chrono::seconds patience = kPatience);
    void signal(int number) const { ::kill(pid_, number); }
    void resize(std::uint16_t columns, std::uint16_t rows);
    /// The terminal's settings now, and before the command had it.
    [[nodiscard]] termios settings() const;
    [[nodiscard]] const termios& settings_before() const { return before_; }
    /// Waits for its end: the exit code, 128 + signal, or -1 when it does not end in time.
    int exit_code(std::chrono::seconds patience = kPatience);
    /// Of what was on the screen, what nobody waited for yet.
    [[nodiscard]] const std::string& screen() const { return screen_; }

private:
    UniqueFd keyboard_;  ///< the pseudo-terminal's other end
    UniqueFd terminal_;  ///< kept open: its settings outlive the command
    termios before_{};
    pid_t pid_ = -1;
    std::string screen_;
};

}  // namespace snapvm::test
