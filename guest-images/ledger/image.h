// SPDX-License-Identifier: Apache-2.0
// The ledger guest, embedded: what `--kernel builtin:ledger` boots.
#pragma once

#include <cstddef>
#include <span>

namespace snapvm {

// The ELF file's bytes. Static storage, page-aligned.
std::span<const std::byte> ledger_image();

}  // namespace snapvm
