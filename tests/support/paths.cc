// SPDX-License-Identifier: Apache-2.0
// The one file compiled with this checkout's own paths: every other object is the same in all checkouts, and so comes from ccache.
#include "tests/support/paths.h"

namespace snapvm::test {

std::string source_folder() { return SNAPVM_SOURCE_DIR; }
std::string build_folder() { return SNAPVM_BUILD_DIR; }
std::string snapvm_program() { return SNAPVM_BUILD_DIR "/snapvm"; }

}  // namespace snapvm::test
