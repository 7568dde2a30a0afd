// SPDX-License-Identifier: Apache-2.0
// How time goes on in a restored machine: kvmclock, TSC and deadlines (vmm/DECISIONS.md, "Guest time").
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
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

// Just before the vCPUs run for the first time; held_msrs_ are each vCPU's in order: TSC, KVM's own, deadline.
Status Machine::set_guest_time() {
    std::uint64_t gap_ns = 0;
    if (gap_ == GapMode::seen) {
        const std::uint64_t now = host_realtime();
        gap_ns = now > restored_clock_->realtime ? now - restored_clock_->realtime : 0;
    }
    const std::uint64_t gap_cycles = tsc_cycles(gap_ns, saved_tsc_khz_);
    // KVM_SET_CLOCK before any vCPU runs: one that read its clock page earlier would see time jump. Without the host's times in the
    // record, by which KVM would add the gap itself: here it is the same for kvmclock and TSC, and on hosts that know no such flag.
    kvm_clock_data clock{};
    clock.clock = restored_clock_->clock + gap_ns;
    TRY(vm_.set_clock(clock));

    const std::span<kvm::VcpuFd> vcpus = vcpus_->vcpus();
    // The TSCs close together, so that KVM sees that they belong together.
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
                // Some KVMs themselves move the first deadline after a TSC that they did not take, so it is set twice: first the later of
                // the two, since the other may be past, and fire.
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
