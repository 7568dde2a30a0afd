// SPDX-License-Identifier: Apache-2.0
// Writes the manual page and the shell's completion from the declared commands, so that they say
// what --help says. The build installs both.
#pragma once

#include <string>

#include "vmm/cli/command_line.h"

namespace snapvm::cli {

/// Returns the manual page snapvm(1), in the man macros of roff (man(7)).
[[nodiscard]] std::string man_page(const CommandInfo& program, const std::string& version);
/// Returns a script for bash-completion. It completes commands, options and files.
[[nodiscard]] std::string bash_completion(const CommandInfo& program);

}  // namespace snapvm::cli
