// SPDX-License-Identifier: Apache-2.0
// Sets the time of a restored machine: kvmclock, TSC and deadlines (vmm/DECISIONS.md, "Guest
// time").
#include <algorithm>
#include <chrono>
#include <span>

#include "vmm/base/try.h"
#include "vmm/machine/clock_state.h"
#include "vmm/machine/machine.h"
#include "vmm/vcpu/tsc.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {
namespace {

using Msrs = std::vector<kvm_msr_entry>;

bool starts_with_tsc(const Msrs& msrs) { return !msrs.empty() && msrs.front().index == kMsrTsc; }

Result<std::uint64_t> read_tsc(const kvm::VcpuFd& vcpu) {
    const Msrs found = TRY(vcpu.msrs(std::span(&kMsrTsc, 1)));
    return found.empty() ? 0 : found.front().data;
}

std::uint64_t nanoseconds_since(std::chrono::steady_clock::time_point start) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace

std::uint64_t host_realtime() {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
            .count());
}

// Called just before the vCPUs first run. held_msrs_ has each vCPU's MSRs in this order: TSC, KVM's
// own, deadline.
Status Machine::set_guest_time() {
    std::uint64_t gap_ns = 0;
    if (gap_ == GapMode::seen) {
        const std::uint64_t now = host_realtime();
        gap_ns = now > restored_clock_->realtime ? now - restored_clock_->realtime : 0;
    }
    const std::uint64_t gap_cycles = tsc_cycles(gap_ns, saved_tsc_khz_);
    // KVM_SET_CLOCK before any vCPU runs: one that read its clock page earlier would see time jump.
    // The record's host times are left out, since with them KVM would add the gap itself. Added
    // here, the gap is the same for kvmclock and TSC, and hosts that do not know the flag have it,
    // too.
    kvm_clock_data clock{};
    clock.clock = restored_clock_->clock + gap_ns;
    TRY(shell_.vm().set_clock(clock));

    const std::span<kvm::VcpuFd> vcpus = vcpus_->vcpus();
    // Sets the TSCs in quick succession, so that KVM treats them as synchronised.
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < held_msrs_.size(); ++i) {
        if (starts_with_tsc(held_msrs_[i])) {
            kvm_msr_entry tsc = held_msrs_[i].front();
            tsc.data += gap_cycles;
            TRY(set_vcpu_msrs(vcpus[i], std::span(&tsc, 1)));
        }
    }
    for (std::size_t i = 0; i < held_msrs_.size(); ++i) {
        Msrs rest = held_msrs_[i];
        if (starts_with_tsc(rest)) {
            const std::uint64_t wanted = rest.front().data + gap_cycles;
            const std::uint64_t found = TRY(read_tsc(vcpus[i]));
            if (!tsc_was_set_) {
                tsc_was_set_ = snapvm::tsc_was_set(wanted, found, nanoseconds_since(start), saved_tsc_khz_);
            }
            rest.erase(rest.begin());
            if (!*tsc_was_set_ && !rest.empty() && rest.back().index == kMsrTscDeadline) {
                // Some KVMs move the first deadline that is set after a TSC that they did not take.
                // So the deadline is set twice: first the later of the two values, since the other
                // may have passed and would fire.
                kvm_msr_entry moved = rest.back();
                moved.data = move_deadline(moved.data, wanted, found);
                rest.back().data = std::max(rest.back().data, moved.data);
                rest.push_back(moved);
            }
        }
        TRY(set_vcpu_msrs(vcpus[i], rest));
    }
    return {};
}

}  // namespace snapvm
