// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/memory_map.h"

#include "vmm/platform/platform.h"

namespace snapvm {

std::vector<MemoryMapEntry> memory_map(std::span<const BlockSpec> blocks) {
    using Type = MemoryMapEntry::Type;
    std::vector<MemoryMapEntry> map;
    for (const BlockSpec& block : blocks) {
        switch (block.id) {
            case BlockId::ram_low:
                map.push_back({block.base, platform::kLowReserved - block.base, Type::ram});
                map.push_back({platform::kLowReserved, platform::kOneMiB - platform::kLowReserved, Type::reserved});
                map.push_back({platform::kOneMiB, block.base + block.size - platform::kOneMiB, Type::ram});
                break;
            case BlockId::ram_high: map.push_back({block.base, block.size, Type::ram}); break;
            case BlockId::firmware: map.push_back({block.base, block.size, Type::acpi}); break;
            case BlockId::vmgenid: map.push_back({block.base, block.size, Type::reserved}); break;
        }
    }
    return map;
}

}  // namespace snapvm
