// SPDX-License-Identifier: Apache-2.0
// Makes the user's terminal the guest's: raw mode, which ends with this process at the latest, and
// the escape keys.
#pragma once

#include <termios.h>

#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm::cli {

/// Puts a terminal into raw mode, and back on destruction, at exit(3), and when a signal ends the
/// process. Output processing stays on, so that a guest's bare "
/// " starts a new line. A process may have one active at a time.
class RawTerminal {
public:
    /// Enters raw mode. Does nothing if `fd` is not a terminal; active() is then false. Fails with
    /// busy if one is active.
    static Result<RawTerminal> enter(int fd);
    RawTerminal(RawTerminal&& other) noexcept;
    RawTerminal& operator=(RawTerminal&&) = delete;
    ~RawTerminal();

    [[nodiscard]] bool active() const { return active_; }

private:
    explicit RawTerminal(bool active) : active_(active) {}
    bool active_;
};

/// Takes the escape keys out of the input: Ctrl-a x ends the machine, Ctrl-a d detaches, and Ctrl-a
/// Ctrl-a is one Ctrl-a for the guest. Ctrl-a with any other key goes to the guest, both keys.
class EscapeFilter {
public:
    enum class Action { none, quit, detach };
    struct Output {
        std::string bytes;  ///< for the guest
        Action action = Action::none;
    };
    /// Filters input. Drops the bytes after a quit or detach.
    Output feed(std::string_view typed);

private:
    bool escaped_ = false;
};

}  // namespace snapvm::cli
