// SPDX-License-Identifier: Apache-2.0
// Linux' compressed kernel image. The file is untrusted. Source: Linux
// Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// Returns whether the file is a bzImage of any version.
[[nodiscard]] bool is_bzimage(std::span<const std::byte> file);

/// Returns the ELF kernel in the image. The VMM unpacks it, since the image's own unpacker is guest
/// code, which is slow if kernel mode is emulated. Fails with invalid if the image is damaged, is
/// older than protocol 2.08 (which added the position of the packed kernel), or uses a format that
/// unpack() does not support.
Result<std::vector<std::byte>> unpack_bzimage(std::span<const std::byte> file);

}  // namespace snapvm
