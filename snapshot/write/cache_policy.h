// SPDX-License-Identifier: Apache-2.0
// Whether page data goes through the host's page cache.
#pragma once

#include "snapshot/write/options.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/population.h"

namespace snapvm {

/// Returns true for `cached`, and for `automatic` if the expected page data is small compared with
/// the free memory of the host. The estimate is of this moment: the guest runs on until the freeze.
[[nodiscard]] bool choose_cached(CachePolicy policy, const GuestMemory& memory, const PopulationScanner& scanner);

}  // namespace snapvm
