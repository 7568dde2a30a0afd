// SPDX-License-Identifier: Apache-2.0
// The options that `run` and `restore` share: what surrounds a machine on the host.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/machine/machine.h"

namespace CLI {
class App;
}

namespace snapvm::cli {

/// Where a line's output goes, and whether its input comes from stdin.
struct LineTarget {
    enum class Kind { stdio, file, none };
    Kind kind = Kind::stdio;
    std::string path;

    /// `line`: its name, for messages.
    static Result<LineTarget> parse(const std::string& text, std::string_view line);
};

struct HostOptions {
    std::string name;
    std::string api_socket;
    std::string serial = "stdio";
    bool serial_given = false;
    std::string console = "none";
    bool console_given = false;   ///< so a new machine has one
    bool virtio_terminal = false;  ///< the console is what a user talks to, through the API
    std::string timeout;
    std::string dirty = "auto";
    bool detach = false;

    void add_to(CLI::App& app);
    [[nodiscard]] Result<std::optional<std::chrono::microseconds>> parsed_timeout() const;
    [[nodiscard]] HostSetup setup() const;
    /// stdio in the foreground, none when detached or when the console is there, unless said otherwise.
    [[nodiscard]] Result<LineTarget> serial_target() const;
    [[nodiscard]] Result<LineTarget> console_target() const;
    /// Those of one clone: name and paths have its number in place of each "{i}".
    [[nodiscard]] HostOptions for_clone(unsigned clone) const;
    /// Refuses paths that `count` clones would share.
    [[nodiscard]] Status check_clones(unsigned count) const;
};

}  // namespace snapvm::cli
