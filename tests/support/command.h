// SPDX-License-Identifier: Apache-2.0
// Runs programs as a user would, the snapvm binary above all, and keeps their output.
#pragma once

#include <string>
#include <vector>

#include "tests/support/scratch_folder.h"

namespace snapvm::test {

struct CommandResult {
    int exit_code = -1;  ///< 128 + signal if a signal ended the program
    std::string out;
    std::string err;
};

/// Runs the program `words[0]`, which is looked for in PATH and in the administrators' folders. Its
/// stdin gets `input` and then ends. The program is killed after a minute.
CommandResult run_program(std::vector<std::string> words, const std::string& input = {});

/// Runs `snapvm ARGUMENTS…` in the same way.
CommandResult snapvm_command(const std::vector<std::string>& arguments, const std::string& input = {});

}  // namespace snapvm::test
