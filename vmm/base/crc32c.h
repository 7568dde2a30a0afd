// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of every section, record and page of a snapshot.
// Ours because no Debian 12 package offers it as a static library (libisal-dev ships the shared object only).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace snapvm {

/// CRC-32C of `data`, going on from `crc` (0 to start; the usual inversions are inside, so calls chain).
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t crc = 0);

/// The same, always by table: what `crc32c` falls back to without SSE4.2, and the oracle of its test.
[[nodiscard]] std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t crc = 0);

}  // namespace snapvm
