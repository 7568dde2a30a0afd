// SPDX-License-Identifier: Apache-2.0
// Exceptions and interrupts: the table, and the report of an exception nobody expected.
#pragma once

namespace snapvm::guest {

// Fills the interrupt table, which the entry code has loaded empty. Before anything that can fault.
void fill_interrupt_table();

}  // namespace snapvm::guest
