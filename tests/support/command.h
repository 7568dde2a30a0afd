// SPDX-License-Identifier: Apache-2.0
// Runs the snapvm binary as a user would, and keeps all it said.
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

/// `snapvm ARGUMENTS…` with `input` on stdin, which then ends. Ended by force after a minute.
CommandResult snapvm_command(const std::vector<std::string>& arguments, const std::string& input = {});

}  // namespace snapvm::test
