// SPDX-License-Identifier: Apache-2.0
// The user's terminal as the guest's: raw mode that never outlives us, and the keys that are ours.
#pragma once

#include <termios.h>

#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm::cli {

/// Puts a terminal into raw mode and back: on destruction, at exit(3), and when a signal ends the process. Output processing
/// stays on, so that a guest's bare "\n" starts a new line. One at a time in a process.
class RawTerminal {
public:
    /// Does nothing when `fd` is no terminal; active() is false then.
    static Result<RawTerminal> enter(int fd);
    RawTerminal(RawTerminal&& other) noexcept;
    RawTerminal& operator=(RawTerminal&&) = delete;
    ~RawTerminal();

    [[nodiscard]] bool active() const { return active_; }

private:
    explicit RawTerminal(bool active) : active_(active) {}
    bool active_;
};

/// Takes our own keys out of what is typed: Ctrl-a x ends the machine, Ctrl-a d detaches, Ctrl-a Ctrl-a is one Ctrl-a for the
/// guest; Ctrl-a with any other key is the guest's, both of them.
class EscapeFilter {
public:
    enum class Action { none, quit, detach };
    struct Output {
        std::string bytes;  ///< for the guest
        Action action = Action::none;
    };
    /// What comes after a quit or detach in the same input is dropped.
    Output feed(std::string_view typed);

private:
    bool escaped_ = false;
};

}  // namespace snapvm::cli
