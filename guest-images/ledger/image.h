// SPDX-License-Identifier: Apache-2.0
// The ledger guest as an embedded ELF file, which `--kernel builtin:ledger` boots.
#pragma once

#include <cstddef>
#include <span>

namespace snapvm {

// Returns the ELF file's bytes. They are page-aligned and have static storage.
std::span<const std::byte> ledger_image();

}  // namespace snapvm
