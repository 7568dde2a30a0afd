// SPDX-License-Identifier: Apache-2.0
// Finds the files that earlier versions wrote (tests/old/README.md).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace snapvm::test {

/// Returns the packed areas of all versions.
std::vector<std::filesystem::path> old_areas();
/// Returns the folders of records of all versions.
std::vector<std::filesystem::path> old_records();
/// Unpacks an area into a file. Chunks that hold only zeros become holes. Throws on errors.
void unpack_area(const std::filesystem::path& packed, const std::filesystem::path& into);

}  // namespace snapvm::test
