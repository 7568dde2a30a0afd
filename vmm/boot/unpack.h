// SPDX-License-Identifier: Apache-2.0
// What kernels are packed with, unpacked by the usual libraries. The bytes are untrusted.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// The name of the format that `packed` begins with, of those that Linux knows ("gzip", "bzip2", "lzma", "xz", "lzo", "lz4", "zstd"), by its
/// magic number; empty for any other.
[[nodiscard]] std::string_view packing_of(std::span<const std::byte> packed);

/// Unpacks gzip, xz, zstd, and lz4 in the form that Linux uses (its "legacy" frames). What follows the packed bytes is not looked at: Linux's
/// build puts their unpacked size there. Errors: invalid (damaged, another format, or more than `limit` bytes come out).
Result<std::vector<std::byte>> unpack(std::span<const std::byte> packed, std::uint64_t limit);

}  // namespace snapvm
