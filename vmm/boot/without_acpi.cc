// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/without_acpi.h"

#include <array>
#include <cstdint>
#include <cstdio>

#include "vmm/platform/platform.h"

namespace snapvm {

std::string arguments_without_acpi(std::size_t virtio_devices) {
    static_assert(platform::kVirtioStride == 4096);
    std::string arguments = "acpi=off";
    for (std::uint32_t number = 0; number < virtio_devices; ++number) {
        const Gpa base = platform::kVirtioBase + number * platform::kVirtioStride;
        std::array<char, 64> words;
        std::snprintf(words.data(), words.size(), " virtio_mmio.device=4K@0x%llx:%u",
                      static_cast<unsigned long long>(base.value), platform::kVirtioGsi + number);
        arguments += words.data();
    }
    return arguments;
}

}  // namespace snapvm
