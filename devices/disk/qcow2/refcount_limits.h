// SPDX-License-Identifier: Apache-2.0
// Constants of the reference counts. Internal to refcounts.cc and allocation.cc.
#pragma once

#include <cstdint>

namespace snapvm::disk::qcow2 {

/// What stands for the number of a block's free clusters until a search has seen all of the block.
inline constexpr std::uint32_t kNotCounted = ~0U;

}  // namespace snapvm::disk::qcow2
