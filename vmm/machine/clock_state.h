// SPDX-License-Identifier: Apache-2.0
// kvmclock as a state record.
#pragma once

#include "vmm/base/error.h"
#include "vmm/kvm/abi.h"
#include "vmm/state/state_record.h"

namespace snapvm {

inline constexpr std::uint16_t kClockStateVersion = 1;

[[nodiscard]] StateRecord encode_clock(const kvm_clock_data& clock);
/// Returns CLOCK_REALTIME in nanoseconds, as kvm_clock_data.realtime. Every clock record has it:
/// from KVM, or from here if KVM does not report it.
[[nodiscard]] std::uint64_t host_realtime();

/// Decodes all fields, host times included, so that a machine that never ran saves an equal record.
Result<kvm_clock_data> decode_clock(const StateRecord& record);

}  // namespace snapvm
