// SPDX-License-Identifier: Apache-2.0
// Describes the devices that a guest cannot detect, in AML: the ports, memory and interrupts of
// PLATFORM.md, for guests that use ACPI.
#pragma once

#include <cstdint>

#include "vmm/boot/aml.h"

namespace snapvm {

/// Returns the definition block of the DSDT, without its header.
[[nodiscard]] aml::Bytes dsdt_body(std::uint32_t virtio_devices);

}  // namespace snapvm
