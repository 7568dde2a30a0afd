// SPDX-License-Identifier: Apache-2.0
// The devices that a guest cannot find by itself, as AML: what PLATFORM.md says of ports, memory and interrupts, for ACPI's readers.
#pragma once

#include <cstdint>

#include "vmm/boot/aml.h"

namespace snapvm {

/// The definition block of the DSDT, without its header.
[[nodiscard]] aml::Bytes dsdt_body(std::uint32_t virtio_devices);

}  // namespace snapvm
