// SPDX-License-Identifier: Apache-2.0
// Only this file is compiled with the checkout's own paths. Every other object is the same in all
// checkouts, and so ccache can share it.
#include "tests/support/paths.h"

namespace snapvm::test {

std::string source_folder() { return SNAPVM_SOURCE_DIR; }
std::string build_folder() { return SNAPVM_BUILD_DIR; }
std::string snapvm_program() { return SNAPVM_BUILD_DIR "/snapvm"; }

}  // namespace snapvm::test
