// SPDX-License-Identifier: Apache-2.0
// State records taken apart into named fields, so that a difference between two snapshots has a name; and THE list of clocks.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/machine/saved_state.h"

namespace snapvm::test {

/// A field of a record: "vcpu 1 msr 0x6e0" and its value.
using Field = std::pair<std::string, std::string>;

/// Every field of every record, in order.
std::vector<Field> fields_of(const std::vector<StateRecord>& records);

/// The clocks: all in which a snapshot A and the snapshot C of the machine restored from A, and never run, may differ. They go on while
/// a machine stands still, because KVM cannot stop them. Everything else is equal to the bit.
///   lapic irr  of the LAPIC timer's vector alone: the timer's interrupt, once the count has run out
///   lapic timer current count (register 0x390): counts down, in one-shot and periodic mode
/// Neither the clock record (kvmclock) nor the TSC and its deadline are among them: they are set when the machine first runs, and until
/// then it hands on those it was restored with.
bool is_clock(std::string_view field);

/// A line for each field in which `a` and `b` differ, clocks apart.
std::vector<std::string> differences(const std::vector<StateRecord>& a, const std::vector<StateRecord>& b);

}  // namespace snapvm::test
