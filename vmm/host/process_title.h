// SPDX-License-Identifier: Apache-2.0
// What ps(1) shows as the command line of this process.
#pragma once

#include <string>

namespace snapvm {

/// Remembers where the kernel finds the command line: in the memory of main()'s arguments.
void remember_arguments(int argc, char** argv);
/// Writes `title` there, in place of the arguments, as far as it fits. The arguments must not be
/// used afterwards. Does nothing if they were not remembered.
void set_process_title(const std::string& title);

}  // namespace snapvm
