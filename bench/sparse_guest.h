// SPDX-License-Identifier: Apache-2.0
// The guest whose restore is measured. It uses its memory sparsely, and every second instruction of
// its program ends in an exit, so that the first exit after a restore shows the first instruction.
#pragma once

#include <cstdint>

#include "snapshot/area/area_path.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// Memory in use: the first megabytes, as a kernel would use them, and kIslands - 1 islands across
/// the rest.
inline constexpr std::uint64_t kLowUsed = 16ULL << 20;
inline constexpr std::uint64_t kIslands = 32;
inline constexpr std::uint64_t kIslandSize = 64ULL << 10;

/// Boots such a guest with `memory_bytes` of memory in this process, lets it run, and writes a
/// snapshot of it. A file at `area` is replaced.
Status snapshot_sparse_guest(std::uint64_t memory_bytes, const AreaPath& area);

}  // namespace snapvm::bench
