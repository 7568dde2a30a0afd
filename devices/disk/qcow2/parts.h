// SPDX-License-Identifier: Apache-2.0
// Parts of buffer lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devices/disk/image/image.h"

namespace snapvm::disk::qcow2 {

/// Returns the parts that hold bytes [offset, offset + size) of `parts`.
Parts slice(std::span<const iovec> parts, std::uint64_t offset, std::uint64_t size);
/// Sets all bytes to zero.
void fill_zero(std::span<const iovec> parts);
/// Returns parts that give `size` zeros to a write.
Parts zero_parts(std::uint64_t size);
/// Copies `bytes` into parts of the same size.
void copy_to(std::span<const iovec> parts, std::span<const std::byte> bytes);

}  // namespace snapvm::disk::qcow2
