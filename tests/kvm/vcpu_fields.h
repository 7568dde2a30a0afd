// SPDX-License-Identifier: Apache-2.0
// Splits state records into named fields, so that a difference between two snapshots has a name. It
// also has the list of clocks.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/config/saved_state.h"

namespace snapvm::test {

/// A field of a record, such as "vcpu 1 msr 0x6e0", and its value.
using Field = std::pair<std::string, std::string>;

/// Returns every field of every record, in order.
std::vector<Field> fields_of(const std::vector<StateRecord>& records);

/// Returns whether a field is a clock. Snapshot A of a machine, and snapshot C of the machine that
/// was restored from A and never run, may differ in clocks only. Clocks go on while a machine is
/// stopped, because KVM cannot stop them. They are:
///   lapic irr  of the LAPIC timer's vector alone: the timer's interrupt, once the count is at 0
///   lapic timer current count (register 0x390): counts down, in one-shot and periodic mode
/// The clock record (kvmclock), the TSC and its deadline are not among them: they are set when the
/// machine first runs, and until then a save returns the values that were restored.
bool is_clock(std::string_view field);

/// Returns a line for each field in which `a` and `b` differ, except clocks.
std::vector<std::string> differences(const std::vector<StateRecord>& a, const std::vector<StateRecord>& b);

}  // namespace snapvm::test
