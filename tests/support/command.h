// SPDX-License-Identifier: Apache-2.0
// Runs the snapvm binary as a user would, and keeps all it said.
#pragma once

#include <string>
#include <vector>

namespace snapvm::test {

struct CommandResult {
    int exit_code = -1;  ///< 128 + signal when a signal ended it
    std::string out;
    std::string err;
};

/// `snapvm ARGUMENTS…` with `input` on stdin, which then ends. Ended by force after a minute.
CommandResult snapvm_command(const std::vector<std::string>& arguments, const std::string& input = {});

/// A folder of its own for a test, removed with all that is in it.
class ScratchFolder {
public:
    ScratchFolder();
    ~ScratchFolder();
    ScratchFolder(const ScratchFolder&) = delete;
    ScratchFolder& operator=(const ScratchFolder&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

}  // namespace snapvm::test
