// SPDX-License-Identifier: Apache-2.0
// Reads the log of a guest's Linux kernel.
#pragma once

#include <string>

namespace snapvm::test {

/// Returns the lines of a kernel's log that a healthy kernel does not write, or an empty text.
[[nodiscard]] std::string trouble_in(const std::string& log);

}  // namespace snapvm::test
