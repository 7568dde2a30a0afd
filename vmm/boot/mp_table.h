// SPDX-License-Identifier: Apache-2.0
// The table of processors and interrupts for kernels without ACPI. Source: Intel MultiProcessor
// Specification 1.4, chapter 4.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace snapvm {

/// Returns the bytes for platform::kMpTable: the floating pointer, then the configuration table.
/// Each IOAPIC pin has the ISA interrupt of its number, edge-triggered. That agrees with ACPI for
/// all pins except the power button's, which such a kernel cannot learn of.
[[nodiscard]] std::vector<std::byte> mp_table(std::uint32_t cpus);

}  // namespace snapvm
