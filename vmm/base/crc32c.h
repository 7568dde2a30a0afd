// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of every section, record and page of a
// snapshot. It is implemented here because no Debian 12 package has it as a static library
// (libisal-dev ships a shared object only).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace snapvm {

/// Returns the CRC-32C of `data`, continued from `crc` (0 to start). The initial and final
/// inversions are inside, so that calls chain.
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t crc = 0);

/// Computes the same from a table, without SSE4.2. `crc32c` uses it on processors without SSE4.2;
/// the test of `crc32c` compares with it.
[[nodiscard]] std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t crc = 0);

}  // namespace snapvm
