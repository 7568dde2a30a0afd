// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/driver_hint.h"

#include "vmm/boot/without_acpi.h"

namespace snapvm::cli {

std::string driver_hint(std::size_t virtio_devices) {
    return "no driver in the guest works with " +
           (virtio_devices == 1 ? std::string("its virtio device")
                                : "any of its " + std::to_string(virtio_devices) + " virtio devices") +
           "; a Linux kernel with CONFIG_ACPI needs CONFIG_PCI and CONFIG_VIRTIO_MMIO for that; one without CONFIG_PCI takes them "
           "from "
           "its command line: add " +
           arguments_without_acpi(virtio_devices) + " to --cmdline";
}

std::optional<Outcome> DriverHint::wait_ended(std::chrono::steady_clock::time_point look_at,
                                              std::chrono::steady_clock::time_point deadline) {
    if (look_at < deadline) {
        if (const std::optional<Outcome> outcome = machine_.wait_ended(look_at)) {
            return outcome;
        }
        look();
    }
    return machine_.wait_ended(deadline);
}

void DriverHint::ended(const Outcome& outcome) {
    if (outcome.kind == Outcome::Kind::reboot || outcome.kind == Outcome::Kind::guest_panic) {
        look();
    }
}

void DriverHint::look() {
    const std::size_t devices = machine_.config().devices.virtio_devices();
    if (!said_ && devices > 0 && !machine_.had_driver()) {
        said_ = true;
        say_(driver_hint(devices));
    }
}

}  // namespace snapvm::cli
