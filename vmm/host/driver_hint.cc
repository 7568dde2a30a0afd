// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/driver_hint.h"

#include "vmm/boot/without_acpi.h"

namespace snapvm {

std::string driver_hint(std::size_t virtio_devices) {
    return "no driver in the guest works with " +
           (virtio_devices == 1 ? std::string("its virtio device")
                                : "any of its " + std::to_string(virtio_devices) + " virtio devices") +
           "; use a Linux kernel with CONFIG_ACPI, CONFIG_PCI and CONFIG_VIRTIO_MMIO; for a kernel without CONFIG_PCI, "
           "add " +
           arguments_without_acpi(virtio_devices) + " to --cmdline";
}

}  // namespace snapvm
