// SPDX-License-Identifier: Apache-2.0
// Files without a name, which are gone when their last descriptor is closed, however the process
// ends.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm::disk {

/// Makes an empty file in memory (memfd_create(2)). `name` is what /proc shows of it. Fails with
/// system.
Result<UniqueFd> make_memory_file(const std::string& name);

/// Makes an empty file in the folder $TMPDIR, or in /var/tmp if that is not set. /tmp, which may be
/// memory, is not used. Fails with system, with advice to name another folder.
Result<UniqueFd> make_temporary_file();

}  // namespace snapvm::disk
