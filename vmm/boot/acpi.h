// SPDX-License-Identifier: Apache-2.0
// The firmware tables of a machine with reduced hardware: RSDP, XSDT, FADT, MADT and DSDT. From
// them a guest learns its CPUs, the IOAPIC, power-off and reset, and the devices that it cannot
// detect (dsdt.h). Source: ACPI specification 6.4, sections 5.2.5 (RSDP), 5.2.8 (XSDT), 5.2.9
// (FADT), 5.2.12 (MADT) and 4.1 (reduced hardware).
//
// The tables are in guest memory, so a restored machine has them from its snapshot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// The properties of a machine that the tables depend on.
struct AcpiMachine {
    std::uint32_t cpus = 1;
    std::uint32_t virtio_devices = 0;
};

/// Returns the contents of the firmware block. The RSDP is at the start; addresses inside are
/// guest-physical. Fails with invalid if the tables exceed the block.
[[nodiscard]] Result<std::vector<std::byte>> acpi_tables(const AcpiMachine& machine);

}  // namespace snapvm
