// SPDX-License-Identifier: Apache-2.0
// A vCPU's descriptor and its kvm_run page. Source: Documentation/virt/kvm/api.rst, "vcpu ioctls".
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

/// Owns a vCPU descriptor and the kvm_run mapping. One thread calls `run`. Other threads call the
/// rest only while no thread is in `run`, with these exceptions: any thread may call
/// `request_immediate_exit` at any time, and one thread at a time may harvest the dirty ring.
class VcpuFd {
public:
    /// Creates vCPU `index`. `ring_entries` is the size of its dirty ring, 0 if the machine has
    /// none.
    static Result<VcpuFd> create(const System& system, int vm_fd, std::uint32_t index, std::uint32_t ring_entries);

    [[nodiscard]] std::uint32_t index() const { return index_; }
    [[nodiscard]] kvm_run& shared() const { return *reinterpret_cast<kvm_run*>(run_.data()); }
    /// Returns the bytes of the port access that KVM_RUN left for, in the kvm_run mapping.
    [[nodiscard]] std::span<std::byte> io_bytes() const;

    /// Calls KVM_RUN. Returns 0 or the errno. It returns no Result, since EINTR (a kick) and EAGAIN
    /// are regular results.
    [[nodiscard]] int run();
    /// Makes the next KVM_RUN return EINTR. With a signal it also ends the current one.
    void request_immediate_exit() { immediate_exit().store(1, std::memory_order_seq_cst); }
    void clear_immediate_exit() { immediate_exit().store(0, std::memory_order_seq_cst); }

    Result<std::vector<kvm_cpuid_entry2>> cpuid() const;
    Status set_cpuid(std::span<const kvm_cpuid_entry2> entries);
    /// Reads the given MSRs. Leaves out those that KVM cannot read.
    Result<std::vector<kvm_msr_entry>> msrs(std::span<const std::uint32_t> indices) const;
    /// Sets MSRs in order until KVM refuses one. Returns how many it set; the caller decides what a
    /// smaller number means.
    Result<std::size_t> set_msrs(std::span<const kvm_msr_entry> entries);

    /// Reads a state struct of fixed size: get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS").
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
        // The setters' argument is non-const only in the ABI's macros; KVM does not write to it.
        return control(request, const_cast<T*>(&value), call);
    }
    /// Makes a vCPU ioctl with any argument.
    Status control(unsigned long request, void* argument, const char* call) const;
    /// Returns the vCPU's TSC frequency in kHz (KVM_GET_TSC_KHZ), or 0 if KVM does not tell.
    [[nodiscard]] std::uint32_t tsc_khz() const;
    /// Sets the frequency of the guest's TSC (KVM_SET_TSC_KHZ). Some KVMs accept it and do nothing,
    /// so the caller reads it back.
    Status set_tsc_khz(std::uint32_t khz);
    /// Tells the guest that it was paused (KVM_KVMCLOCK_CTRL), so that its watchdogs do not report
    /// the pause as a lockup. Does nothing if the guest has set up no kvmclock.
    Status notify_paused();

    /// Takes the finished entries out of the dirty ring, calls visit(slot, page) for each, and
    /// marks them for KVM_RESET_DIRTY_RINGS. One thread at a time calls it; it may do so while
    /// another is in `run`.
    template <class Visit>
    void harvest_dirty_ring(Visit visit) {
        while (ring_entries_ != 0) {
            kvm_dirty_gfn& entry = ring()[ring_next_ % ring_entries_];
            const std::atomic_ref<std::uint32_t> flags(entry.flags);
            // KVM writes the flags after the entry's other fields, and reads our flags before it
            // reuses the entry.
            if ((flags.load(std::memory_order_acquire) & KVM_DIRTY_GFN_F_DIRTY) == 0) {
                return;
            }
            visit(entry.slot & 0xFFFF, entry.offset);
            flags.store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
            ++ring_next_;
        }
    }

    /// Returns whether a KVM_RESET_DIRTY_RINGS ended before it had reset all harvested entries. KVM
    /// clears each entry's flags as it resets it.
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
    std::size_t cpuid_entries_ = 0;  ///< the number of entries set last
    Mapping ring_;
    std::uint32_t ring_entries_ = 0;
    std::uint32_t ring_next_ = 0;
};

}  // namespace snapvm::kvm
