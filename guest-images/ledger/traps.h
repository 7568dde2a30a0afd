// SPDX-License-Identifier: Apache-2.0
// The interrupt table, and the report of an unexpected exception.
#pragma once

namespace snapvm::guest {

// Fills the interrupt table, which the entry code has loaded empty. It is called before anything
// that can fault.
void fill_interrupt_table();

}  // namespace snapvm::guest
