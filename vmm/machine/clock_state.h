// SPDX-License-Identifier: Apache-2.0
// kvmclock as a record.
#pragma once

#include "vmm/base/error.h"
#include "vmm/base/state_record.h"
#include "vmm/kvm/abi.h"

namespace snapvm {

inline constexpr std::uint16_t kClockStateVersion = 1;

[[nodiscard]] StateRecord encode_clock(const kvm_clock_data& clock);
/// CLOCK_REALTIME in nanoseconds, as kvm_clock_data.realtime. A clock record always has it, from KVM or, where KVM does not tell, from us.
[[nodiscard]] std::uint64_t host_realtime();

/// Host times and all, so that a machine that never ran hands on the same record.
Result<kvm_clock_data> decode_clock(const StateRecord& record);

}  // namespace snapvm
