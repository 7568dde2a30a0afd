// SPDX-License-Identifier: Apache-2.0
// Unpacks the compression formats of kernels with their usual libraries. The bytes are untrusted.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// Returns the name of the format whose magic number `packed` begins with: "gzip", "bzip2", "lzma",
/// "xz", "lzo", "lz4" or "zstd", the formats that Linux uses. Returns an empty string for any
/// other.
[[nodiscard]] std::string_view packing_of(std::span<const std::byte> packed);

/// Unpacks gzip, xz, zstd, and lz4 in the form that Linux uses ("legacy" frames). Ignores what
/// follows the packed bytes, where Linux' build puts the unpacked size. Fails with invalid if the
/// bytes are damaged, have another format, or unpack to more than `limit` bytes.
Result<std::vector<std::byte>> unpack(std::span<const std::byte> packed, std::uint64_t limit);

}  // namespace snapvm
