// SPDX-License-Identifier: Apache-2.0
// The guest whose restore is measured: sparsely used memory, and a program whose every second instruction ends in an exit, so that the
// first exit after a restore is the first instruction.
#pragma once

#include <cstdint>

#include "snapshot/area_path.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// What the guest has written: the first megabytes, as a kernel would, and islands all over the rest.
inline constexpr std::uint64_t kLowUsed = 16ULL << 20;
inline constexpr std::uint64_t kIslands = 32;
inline constexpr std::uint64_t kIslandSize = 64ULL << 10;

/// Boots such a guest with that much memory in this process, lets it run and writes a snapshot of it. A file at `area` is replaced.
Status snapshot_sparse_guest(std::uint64_t memory_bytes, const AreaPath& area);

}  // namespace snapvm::bench
