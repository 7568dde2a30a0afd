// SPDX-License-Identifier: Apache-2.0
// The table of processors and interrupts for kernels without ACPI. Source: Intel MultiProcessor Specification 1.4, chapter 4.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace snapvm {

/// The bytes for platform::kMpTable, where such kernels look: the floating pointer, and behind it the configuration table. Each IOAPIC pin
/// stands for the ISA interrupt of its number, edge-triggered, which is what ACPI says of all but one; that one, the power button's, nobody
/// can tell such a kernel of.
[[nodiscard]] std::vector<std::byte> mp_table(std::uint32_t cpus);

}  // namespace snapvm
