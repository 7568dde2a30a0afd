// SPDX-License-Identifier: Apache-2.0
// Folders that only this user can change.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// Opens the folder `name`, from the descriptor `parent` if it is relative. Fails with usage if it
/// is a symbolic link or no folder, if it belongs to another user, or if its group or others may
/// write to it; fails also like Opener::open. `path` names it in messages,
/// and `advice` says what to do.
Result<UniqueFd> open_own_folder(int parent, const std::string& name, const std::string& path,
                                 const std::string& advice);
/// Does the same, and makes the folder first, with mode 0700, if there is none.
Result<UniqueFd> make_own_folder(int parent, const std::string& name, const std::string& path,
                                 const std::string& advice);

}  // namespace snapvm
