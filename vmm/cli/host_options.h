// SPDX-License-Identifier: Apache-2.0
// The options that `run` and `restore` share: what surrounds a machine on the host.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "vmm/base/error.h"
#include "vmm/machine/machine.h"

namespace CLI {
class App;
}

namespace snapvm::cli {

/// Where the serial port's output goes, and whether input comes from stdin.
struct SerialTarget {
    enum class Kind { stdio, file, none };
    Kind kind = Kind::stdio;
    std::string path;

    static Result<SerialTarget> parse(const std::string& text);
};

struct HostOptions {
    std::string name;
    std::string api_socket;
    std::string serial = "stdio";
    bool serial_given = false;
    std::string console = "none";
    std::string timeout;
    std::string dirty = "auto";
    bool detach = false;

    void add_to(CLI::App& app);
    [[nodiscard]] Result<std::optional<std::chrono::microseconds>> parsed_timeout() const;
    [[nodiscard]] HostSetup setup() const;
    /// stdio in the foreground, none when detached, unless said otherwise.
    [[nodiscard]] Result<SerialTarget> serial_target() const;
};

}  // namespace snapvm::cli
