// SPDX-License-Identifier: Apache-2.0
// The firmware tables, for a machine with reduced hardware: RSDP, XSDT, FADT, MADT and DSDT, so that a guest finds its CPUs, the IOAPIC,
// power-off and reset, and the devices that it cannot find by itself (dsdt.h). Source: ACPI specification 6.4, sections 5.2.5 (RSDP),
// 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.12 (MADT) and 4.1 (reduced hardware).
//
// They are guest memory, and so a restored machine has them from its snapshot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// What the tables depend on.
struct AcpiMachine {
    std::uint32_t cpus = 1;
    std::uint32_t virtio_devices = 0;
};

/// The bytes of the firmware block, the RSDP at their start; addresses inside are guest-physical. An error when they do not fit.
[[nodiscard]] Result<std::vector<std::byte>> acpi_tables(const AcpiMachine& machine);

}  // namespace snapvm
