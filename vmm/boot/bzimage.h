// SPDX-License-Identifier: Apache-2.0
// Linux' packed kernel image. The file is untrusted. Source: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// Whether this is a bzImage, of whatever version.
[[nodiscard]] bool is_bzimage(std::span<const std::byte> file);

/// The ELF kernel in it, unpacked here: the image's own unpacker is code of the guest's, and slow where kernel mode is emulated. Errors:
/// invalid (damaged; older than protocol 2.08, which says where the packed kernel is; packed in a way that unpack() does not know).
Result<std::vector<std::byte>> unpack_bzimage(std::span<const std::byte> file);

}  // namespace snapvm
