// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmm/base/error.h"

namespace snapvm {

/// Returns a path that names the same file from every folder. An empty path stays empty. Fails with
/// system if the current folder is not known.
Result<std::string> absolute_path(const std::string& path);

/// Returns the path of the file that `path` leads to, without links. Fails with system if there is
/// no such file.
Result<std::string> canonical_path(const std::string& path);

}  // namespace snapvm
