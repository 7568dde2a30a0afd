// SPDX-License-Identifier: Apache-2.0
// A restored vCPU's time stamp counter: its frequency, and the deadline that was armed against it
// if it cannot be set. See vmm/DECISIONS.md, "Guest time".
#pragma once

#include <cstdint>

#include "vmm/base/error.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu_fd.h"

namespace snapvm {

/// Returns whether two frequencies differ by at most 250 parts in a million, which KVM treats as
/// equal (its module parameter tsc_tolerance_ppm). Returns true if one of them is unknown (0).
[[nodiscard]] bool same_tsc_frequency(std::uint32_t a_khz, std::uint32_t b_khz);

/// Gives the vCPU the frequency of the saved one. Fails with unsupported, naming both, if they
/// differ and KVM cannot scale the TSC.
Status match_tsc_frequency(const kvm::System& system, kvm::VcpuFd& vcpu, std::uint32_t saved_khz);

[[nodiscard]] std::uint64_t tsc_cycles(std::uint64_t nanoseconds, std::uint32_t khz);

/// Returns whether KVM took the value `wanted` for a TSC that was read back as `found` up to
/// `elapsed_ns` later. Allows 10 ms more, since KVM aligns the TSCs of a machine's vCPUs.
[[nodiscard]] bool tsc_was_set(std::uint64_t wanted, std::uint64_t found, std::uint64_t elapsed_ns, std::uint32_t khz);

/// Returns a deadline (MSR 0x6E0) as far from `found` as `deadline` is from `wanted`. 0 (no
/// deadline) stays 0, and no other value becomes 0, so a deadline that has passed fires at once.
[[nodiscard]] std::uint64_t move_deadline(std::uint64_t deadline, std::uint64_t wanted, std::uint64_t found);

}  // namespace snapvm
