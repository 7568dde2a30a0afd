// SPDX-License-Identifier: Apache-2.0
// Runs programs as a user would, the snapvm binary above all, and keeps all they said.
#pragma once

#include <string>
#include <vector>

#include "tests/support/scratch_folder.h"

namespace snapvm::test {

struct CommandResult {
    int exit_code = -1;  ///< 128 + signal when a signal ended it
    std::string out;
    std::string err;
};

/// The program `words[0]`, looked for in PATH and where an administrator's are, with `input` on stdin, which then ends. Ended by force after a
/// minute.
CommandResult run_program(std::vector<std::string> words, const std::string& input = {});

/// `snapvm ARGUMENTS…`, likewise.
CommandResult snapvm_command(const std::vector<std::string>& arguments, const std::string& input = {});

}  // namespace snapvm::test
