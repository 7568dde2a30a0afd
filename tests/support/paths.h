// SPDX-License-Identifier: Apache-2.0
// Where the tests' own tree and the program under test are.
#pragma once

#include <string>

namespace snapvm::test {

/// The checkout's root.
std::string source_folder();
/// The build folder: on the file system that the project is on, not in memory as /tmp may be.
std::string build_folder();
/// The snapvm program of this build.
std::string snapvm_program();

}  // namespace snapvm::test
