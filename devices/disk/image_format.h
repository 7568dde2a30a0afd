// SPDX-License-Identifier: Apache-2.0
// Recognises disk images that are not raw.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// Returns the name of the format whose magic number the first or the last sector of a disk has; an
/// empty one if there is none. It is asked before a machine's first run only: a guest can write any
/// magic number into its disk. `size` is in bytes; `name` names the disk in errors.
Result<std::string_view> image_format(int fd, std::uint64_t size, const std::string& name);

}  // namespace snapvm
