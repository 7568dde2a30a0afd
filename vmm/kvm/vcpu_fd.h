// SPDX-License-Identifier: Apache-2.0
// One vCPU's descriptor and its kvm_run page. Source: Documentation/virt/kvm/api.rst, "vcpu ioctls".
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/system.h"
#include "vmm/memory/mapping.h"

namespace snapvm::kvm {

/// Owns a vCPU descriptor and the kvm_run mapping. `run` belongs to one thread; everything else may be called from another one
/// only while no thread is in `run`. Exception: `request_immediate_exit`, from anywhere at any time.
class VcpuFd {
public:
    /// `ring_entries`: of the dirty ring, where the machine has one; else 0.
    static Result<VcpuFd> create(const System& system, int vm_fd, std::uint32_t index, std::uint32_t ring_entries);

    [[nodiscard]] std::uint32_t index() const { return index_; }
    [[nodiscard]] kvm_run& shared() const { return *reinterpret_cast<kvm_run*>(run_.data()); }
    /// The bytes of a port access, in the run mapping.
    [[nodiscard]] std::span<std::byte> io_bytes() const;

    /// KVM_RUN. 0, or the errno: EINTR (kicked) and EAGAIN are everyday answers, so this is no Result.
    [[nodiscard]] int run();
    /// Makes the next (or current, together with a signal) KVM_RUN return EINTR.
    void request_immediate_exit() { immediate_exit().store(1, std::memory_order_seq_cst); }
    void clear_immediate_exit() { immediate_exit().store(0, std::memory_order_seq_cst); }

    Result<std::vector<kvm_cpuid_entry2>> cpuid() const;
    Status set_cpuid(std::span<const kvm_cpuid_entry2> entries);
    /// Reads the given MSRs; those that KVM cannot read are left out of the answer.
    Result<std::vector<kvm_msr_entry>> msrs(std::span<const std::uint32_t> indices) const;
    /// Sets as many as KVM takes, in order; returns how many. A short count is the caller's to judge (traps.md).
    Result<std::size_t> set_msrs(std::span<const kvm_msr_entry> entries);

    /// The fixed-size state structs: get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS").
    template <class T>
    Result<T> get(unsigned long request, const char* call) const {
        T value{};
        if (Status status = control(request, &value, call); !status) {
            return fail(std::move(status).error());
        }
        return value;
    }
    template <class T>
    Status set(unsigned long request, const T& value, const char* call) {
        // KVM's setters take a pointer to non-const in the ABI's macros only.
        return control(request, const_cast<T*>(&value), call);
    }
    /// A vCPU ioctl with any argument.
    Status control(unsigned long request, void* argument, const char* call) const;
    /// KVM_GET_TSC_KHZ; 0 where KVM does not tell.
    [[nodiscard]] std::uint32_t tsc_khz() const;
    /// KVM_SET_TSC_KHZ: the frequency at which the guest sees its TSC run. Some KVMs take it and do nothing, so read it back.
    Status set_tsc_khz(std::uint32_t khz);
    /// KVM_KVMCLOCK_CTRL: tells the guest that it was paused, so that its watchdogs do not bark. Fine for a guest without kvmclock.
    Status notify_paused();

    /// Takes the finished entries out of the dirty ring, visit(slot, page) for each, and marks them for KVM_RESET_DIRTY_RINGS. From one
    /// thread at a time, which may be another than the one in `run`.
    template <class Visit>
    void harvest_dirty_ring(Visit visit) {
        while (ring_entries_ != 0) {
            kvm_dirty_gfn& entry = ring()[ring_next_ % ring_entries_];
            const std::atomic_ref<std::uint32_t> flags(entry.flags);
            // KVM writes the flag last, and reads ours first.
            if ((flags.load(std::memory_order_acquire) & KVM_DIRTY_GFN_F_DIRTY) == 0) {
                return;
            }
            visit(entry.slot & 0xFFFF, entry.offset);
            flags.store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
            ++ring_next_;
        }
    }

    /// After a KVM_RESET_DIRTY_RINGS: whether it has not come to all that was taken out. KVM clears the flags as it goes.
    [[nodiscard]] bool dirty_ring_reset_fell_short() const {
        if (ring_next_ == 0) {
            return false;
        }
        const std::atomic_ref<std::uint32_t> flags(ring()[(ring_next_ - 1) % ring_entries_].flags);
        return (flags.load(std::memory_order_acquire) & KVM_DIRTY_GFN_F_RESET) != 0;
    }

private:
    VcpuFd(UniqueFd fd, Mapping run, std::uint32_t index)
        : fd_(std::move(fd)), run_(std::move(run)), index_(index), name_("vCPU " + std::to_string(index)) {}
    [[nodiscard]] kvm_dirty_gfn* ring() const { return reinterpret_cast<kvm_dirty_gfn*>(ring_.data()); }
    [[nodiscard]] std::atomic_ref<std::uint8_t> immediate_exit() const {
        return std::atomic_ref<std::uint8_t>(shared().immediate_exit);
    }

    UniqueFd fd_;
    Mapping run_;
    std::uint32_t index_;
    std::string name_;
    std::size_t cpuid_entries_ = 0;  ///< as many as were set
    Mapping ring_;
    std::uint32_t ring_entries_ = 0;
    std::uint32_t ring_next_ = 0;
};

}  // namespace snapvm::kvm
