// SPDX-License-Identifier: Apache-2.0
// Whether page data goes through the host's page cache.
#pragma once

#include "snapshot/writer.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/population.h"

namespace snapvm {

/// True for `cached`, and for `automatic` where little data is to be written beside the memory that is free. At the machine's present.
[[nodiscard]] bool choose_cached(CachePolicy policy, const GuestMemory& memory, const PopulationScanner& scanner);

}  // namespace snapvm
