// SPDX-License-Identifier: Apache-2.0
// A restored vCPU's time stamp counter: its frequency, and what becomes of a deadline armed against it where it cannot be set.
// vmm/DECISIONS.md, "Guest time".
#pragma once

#include <cstdint>

#include "vmm/base/error.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu_fd.h"

namespace snapvm {

/// At most 250 parts in a million apart: what KVM itself takes for one frequency (its module parameter tsc_tolerance_ppm). True where
/// one of them is not known (0).
[[nodiscard]] bool same_tsc_frequency(std::uint32_t a_khz, std::uint32_t b_khz);

/// Gives the vCPU the frequency that the saved one had. `unsupported`, naming both, where it differs and KVM cannot scale it.
Status match_tsc_frequency(const kvm::System& system, kvm::VcpuFd& vcpu, std::uint32_t saved_khz);

[[nodiscard]] std::uint64_t tsc_cycles(std::uint64_t nanoseconds, std::uint32_t khz);

/// Whether a TSC that was set to `wanted` and read back as `found` up to `elapsed_ns` later was set at all. 10 ms are given to KVM,
/// which brings the TSCs of a machine's vCPUs together.
[[nodiscard]] bool tsc_was_set(std::uint64_t wanted, std::uint64_t found, std::uint64_t elapsed_ns, std::uint32_t khz);

/// The deadline (MSR 0x6E0) that is as far from `found` as `deadline` is from `wanted`. 0, which means none, stays; nothing else
/// becomes 0: what has passed fires at once.
[[nodiscard]] std::uint64_t move_deadline(std::uint64_t deadline, std::uint64_t wanted, std::uint64_t found);

}  // namespace snapvm
