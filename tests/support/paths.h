// SPDX-License-Identifier: Apache-2.0
// The places of the tests' own tree and of the program under test.
#pragma once

#include <string>

namespace snapvm::test {

/// Returns the checkout's root.
std::string source_folder();
/// Returns the build folder, which is on the project's file system. /tmp may be in memory.
std::string build_folder();
/// Returns the snapvm program of this build.
std::string snapvm_program();

}  // namespace snapvm::test
