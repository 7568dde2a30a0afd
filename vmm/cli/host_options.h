// SPDX-License-Identifier: Apache-2.0
// The options that `run` and `restore` share: the host's side of a machine.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/cli/command_line.h"
#include "vmm/host/line_target.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {

/// Parses "stdio", "file=PATH" or "none". `line` names the line in messages.
Result<LineTarget> parse_line_target(const std::string& text, std::string_view line);

struct HostOptions {
    std::string name;
    std::string api_socket;
    std::string serial = "stdio";
    bool serial_given = false;
    std::string console = "none";
    bool console_given = false;   ///< a new machine then has a console
    bool virtio_terminal = false;  ///< the console is the terminal that the API offers
    std::string timeout;
    std::string dirty = "auto";
    bool detach = false;

    void add_to(Command command);
    [[nodiscard]] Result<std::optional<std::chrono::microseconds>> parsed_timeout() const;
    [[nodiscard]] HostSetup setup() const;
    /// Returns what `--serial` says. By default that is stdio in the foreground, and none if the
    /// machine is detached or a virtio console has stdio.
    [[nodiscard]] Result<LineTarget> serial_target() const;
    [[nodiscard]] Result<LineTarget> console_target() const;
    /// Returns the options of one clone: its number replaces each "{i}" in name and paths.
    [[nodiscard]] HostOptions for_clone(unsigned clone) const;
    /// Fails with usage if `count` clones would share a path.
    [[nodiscard]] Status check_clones(unsigned count) const;
};

}  // namespace snapvm::cli
