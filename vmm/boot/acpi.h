// SPDX-License-Identifier: Apache-2.0
// The firmware tables: RSDP, XSDT and MADT, so that a guest finds its CPUs and the IOAPIC. Source: ACPI specification 6.4, sections 5.2.5
// (RSDP), 5.2.8 (XSDT) and 5.2.12 (MADT). The FADT and DSDT come with the virtio devices.
#pragma once

#include <cstdint>
#include <vector>

namespace snapvm {

/// The bytes of the firmware block for a machine of `cpus` vCPUs, the RSDP at their start; addresses inside are guest-physical.
[[nodiscard]] std::vector<std::byte> acpi_tables(std::uint32_t cpus);

}  // namespace snapvm
