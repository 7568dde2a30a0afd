// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/vcpu_state.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Returns the order in which an MSR is set: 0 for the TSC, 2 for its deadline, 1 for the others.
int rank(std::uint32_t index) { return index == kMsrTsc ? 0 : index == kMsrTscDeadline ? 2 : 1; }

std::uint64_t read_msr(const kvm::VcpuFd& vcpu, std::uint32_t index) {
    const auto value = vcpu.msrs(std::span(&index, 1));
    return value && !value->empty() ? value->front().data : 0;
}

// KVM_SET_MSRS stops at the first MSR that it refuses, so a short count that is ignored loses
// state. A refused MSR that already has its value is skipped (some are read-only on some hosts);
// any other is an error.
Status set_msrs_or_refuse(kvm::VcpuFd& vcpu, std::span<const kvm_msr_entry> msrs) {
    while (!msrs.empty()) {
        const std::size_t done = TRY(vcpu.set_msrs(msrs));
        if (done >= msrs.size()) {
            return {};
        }
        const kvm_msr_entry& refused = msrs[done];
        if (read_msr(vcpu, refused.index) != refused.data) {
            std::array<char, 96> text;
            std::snprintf(text.data(), text.size(), "KVM_SET_MSRS vCPU %u: MSR 0x%x does not accept 0x%llx",
                          vcpu.index(), refused.index, static_cast<unsigned long long>(refused.data));
            return fail(ErrorKind::unsupported, text.data(), "restore it on a host with the same CPU model and kernel");
        }
        msrs = msrs.subspan(done + 1);
    }
    return {};
}

// Besides the TSC's, these are MSR_KVM_WALL_CLOCK and MSR_KVM_SYSTEM_TIME under their old numbers,
// and the range that KVM defines (Documentation/virt/kvm/x86/msr.rst).
bool is_late(const kvm_msr_entry& msr) {
    return msr.index == kMsrTsc || msr.index == kMsrTscDeadline || msr.index == 0x11 || msr.index == 0x12 ||
           (msr.index >= 0x4B564D00 && msr.index <= 0x4B564DFF);
}

// The processor priority follows from the task priority and the highest vector in service (Intel
// SDM volume 3, 11.8.3.1). KVM_SET_LAPIC computes it before it has counted the vectors in service,
// so a restored LAPIC reads back too low a priority until its vCPU runs.
void compute_processor_priority(kvm_lapic_state& lapic) {
    constexpr std::size_t kTaskPriority = 0x80;
    constexpr std::size_t kProcessorPriority = 0xA0;
    constexpr std::size_t kInService = 0x100;
    std::uint32_t task = 0;
    std::memcpy(&task, lapic.regs + kTaskPriority, sizeof task);
    std::uint32_t in_service = 0;
    for (std::uint32_t word = 8; word-- > 0 && in_service == 0;) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, lapic.regs + kInService + word * 16, sizeof bits);
        if (bits != 0) {
            in_service = word * 32 + static_cast<std::uint32_t>(std::bit_width(bits)) - 1;
        }
    }
    const std::uint32_t priority = (task & 0xF0) >= (in_service & 0xF0) ? task & 0xFF : in_service & 0xF0;
    std::memcpy(lapic.regs + kProcessorPriority, &priority, sizeof priority);
}

}  // namespace

std::vector<kvm_msr_entry> take_late_msrs(VcpuStateV1& state) {
    const auto first = std::ranges::stable_partition(state.msrs, std::not_fn(is_late));
    std::vector<kvm_msr_entry> taken(first.begin(), first.end());
    state.msrs.erase(first.begin(), first.end());
    return taken;
}

Status set_vcpu_msrs(kvm::VcpuFd& vcpu, std::span<const kvm_msr_entry> msrs) { return set_msrs_or_refuse(vcpu, msrs); }

void put_msrs(VcpuStateV1& state, std::span<const kvm_msr_entry> msrs) {
    for (const kvm_msr_entry& msr : msrs) {
        if (const auto found = std::ranges::find(state.msrs, msr.index, &kvm_msr_entry::index);
            found != state.msrs.end()) {
            found->data = msr.data;
        }
    }
}

std::vector<std::uint32_t> order_msrs(std::vector<std::uint32_t> indices) {
    std::ranges::stable_sort(indices, {}, rank);
    return indices;
}

std::vector<std::uint32_t> msrs_of_guest(std::span<const std::uint32_t> indices,
                                         std::span<const kvm_cpuid_entry2> cpuid) {
    constexpr std::uint32_t kHyperVFirst = 0x40000000;
    constexpr std::uint32_t kHyperVLast = 0x400001FF;
    std::vector<std::uint32_t> kept(indices.begin(), indices.end());
    if (!shows_hyper_v(cpuid)) {
        std::erase_if(kept, [](std::uint32_t index) { return index >= kHyperVFirst && index <= kHyperVLast; });
    }
    return kept;
}

Result<VcpuStateV1> capture_vcpu(const kvm::System& system, const kvm::VcpuFd& vcpu,
                                 std::span<const std::uint32_t> msr_indices) {
    VcpuStateV1 state;
    // MP state first: reading it makes KVM accept pending INITs and SIPIs, which changes registers.
    state.mp_state = TRY(vcpu.get<kvm_mp_state>(KVM_GET_MP_STATE, "KVM_GET_MP_STATE"));
    state.regs = TRY(vcpu.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS"));
    if (system.capabilities().sregs2 != 0) {
        state.sregs = TRY(vcpu.get<kvm_sregs2>(KVM_GET_SREGS2, "KVM_GET_SREGS2"));
    } else {
        const kvm_sregs old = TRY(vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS"));
        std::memcpy(&state.sregs, &old, offsetof(kvm_sregs2, flags));
    }
    const int xsave_size = std::max(system.capabilities().xsave2, static_cast<int>(sizeof(kvm_xsave)));
    state.xsave.resize(static_cast<std::size_t>(xsave_size));
    if (system.capabilities().xsave2 != 0) {
        TRY(vcpu.control(KVM_GET_XSAVE2, state.xsave.data(), "KVM_GET_XSAVE2"));
    } else {
        TRY(vcpu.control(KVM_GET_XSAVE, state.xsave.data(), "KVM_GET_XSAVE"));
    }
    state.xcrs = TRY(vcpu.get<kvm_xcrs>(KVM_GET_XCRS, "KVM_GET_XCRS"));
    state.debugregs = TRY(vcpu.get<kvm_debugregs>(KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"));
    // MSRs before the LAPIC: a deadline timer that fires between the two reads has left its
    // deadline in the MSR and its interrupt in the LAPIC, so at worst it comes twice. In the other
    // order it would be in neither, and the guest's tick would stop for good.
    state.cpuid = TRY(vcpu.cpuid());
    state.msrs = TRY(vcpu.msrs(msrs_of_guest(msr_indices, state.cpuid)));
    state.lapic = TRY(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC, "KVM_GET_LAPIC"));
    compute_processor_priority(state.lapic);
    state.events = TRY(vcpu.get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS"));
    state.tsc_khz = vcpu.tsc_khz();
    return state;
}

Status apply_vcpu(const kvm::System& system, kvm::VcpuFd& vcpu, const VcpuStateV1& state) {
    // CPUID first: the values that MSRs, CR4 and XSAVE components may have depend on it.
    TRY(vcpu.set_cpuid(state.cpuid));
    TRY(vcpu.set(KVM_SET_MP_STATE, state.mp_state, "KVM_SET_MP_STATE"));
    // SREGS before the LAPIC: they hold the APIC base, and KVM resets the LAPIC when that enables
    // it.
    if (system.capabilities().sregs2 != 0) {
        TRY(vcpu.set(KVM_SET_SREGS2, state.sregs, "KVM_SET_SREGS2"));
    } else {
        kvm_sregs old{};
        std::memcpy(&old, &state.sregs, offsetof(kvm_sregs2, flags));
        TRY(vcpu.set(KVM_SET_SREGS, old, "KVM_SET_SREGS"));
    }
    const auto room =
        static_cast<std::size_t>(std::max(system.capabilities().xsave2, static_cast<int>(sizeof(kvm_xsave))));
    std::vector<std::byte> xsave = state.xsave;
    if (xsave.size() > room) {
        // KVM reads the bytes that this host's components need. A component that it lacks was
        // refused with the CPUID table before.
        xsave.resize(room);
    }
    xsave.resize(room);
    TRY(vcpu.control(KVM_SET_XSAVE, xsave.data(), "KVM_SET_XSAVE"));
    TRY(vcpu.set(KVM_SET_XCRS, state.xcrs, "KVM_SET_XCRS"));
    TRY(vcpu.set(KVM_SET_DEBUGREGS, state.debugregs, "KVM_SET_DEBUGREGS"));
    // LAPIC before the MSRs: it holds the timer's mode, without which a TSC deadline reads back as
    // 0.
    TRY(vcpu.set(KVM_SET_LAPIC, state.lapic, "KVM_SET_LAPIC"));
    // TSC first, since kvmclock's MSR takes its base from it. TSC deadline last, since it is armed
    // against the TSC.
    TRY(set_msrs_or_refuse(vcpu, state.msrs));
    TRY(vcpu.set(KVM_SET_REGS, state.regs, "KVM_SET_REGS"));
    // Events last: setting registers clears pending exceptions.
    TRY(vcpu.set(KVM_SET_VCPU_EVENTS, state.events, "KVM_SET_VCPU_EVENTS"));
    return {};
}

}  // namespace snapvm
