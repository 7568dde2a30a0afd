// SPDX-License-Identifier: Apache-2.0
// A KVM machine's descriptor. Source: Documentation/virt/kvm/api.rst, "vm ioctls".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/memory/gpa.h"

namespace snapvm::kvm {

/// A message-signalled interrupt in the form that LAPICs accept (Intel SDM volume 3, "Message
/// Signalled Interrupts").
struct Msi {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
};

/// Owns a VM descriptor. Any thread may deliver interrupts and set their routes. One thread at a
/// time may use the dirty log and rings while the vCPUs run. The rest is called during assembly, or
/// while the vCPUs are parked.
class Vm {
public:
    /// Calls KVM_CREATE_VM and sets the addresses that Intel hosts without unrestricted guests need
    /// before the first vCPU is created.
    static Result<Vm> create(const System& system);

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// Puts the LAPICs into KVM and leaves the IOAPIC to the VMM; reserves `pins` routes for it.
    /// Must precede the first vCPU.
    Status enable_split_irqchip(std::uint32_t pins);
    /// Gives each vCPU a ring of `entries` dirty pages (a power of two) in place of the dirty log.
    /// Must precede the first vCPU.
    Status enable_dirty_ring(const System& system, std::uint32_t entries);
    /// Switches the dirty log to manual mode: only clear_dirty_log clears bits and protects pages,
    /// and all bits are set when the log is switched on.
    Status enable_manual_dirty_log(const System& system);

    /// Adds a memory slot (KVM_SET_USER_MEMORY_REGION). Slots are numbered in the order of the
    /// calls.
    Status add_slot(Gpa base, std::byte* host, std::uint64_t size, std::string_view name);
    [[nodiscard]] std::size_t slots() const { return slots_.size(); }
    [[nodiscard]] std::uint64_t slot_pages(std::size_t slot) const { return slots_[slot].size / kPageSize; }
    /// Switches the tracking of writes on or off for every slot.
    Status track_writes(bool on);
    /// Copies a slot's dirty bits to `words` without clearing them (manual mode). `words` holds one
    /// bit for each page, in whole words.
    Status dirty_log(std::size_t slot, std::span<std::uint64_t> words);
    /// Clears the dirty bits that are set in `words` and protects their pages. `words` starts at
    /// page `first` (a multiple of 64) and has `count` bits.
    Status clear_dirty_log(std::size_t slot, std::uint64_t first, std::uint64_t count,
                           std::span<const std::uint64_t> words);
    /// Protects the pages whose ring entries were harvested. Their contents may be read only after
    /// it returns (KVM api.rst, 8.29). Linux 6.16 and newer return early if the calling thread has
    /// a signal or io_uring task work pending. They then forget up to 64 pages, which stay writable
    /// without being logged, and the count returned need not show it. So only a QuietThread calls
    /// it, and the caller checks VcpuFd::dirty_ring_reset_fell_short afterwards.
    Status reset_dirty_rings();

    Result<VcpuFd> create_vcpu(const System& system, std::uint32_t index);

    /// Injects an MSI now (KVM_SIGNAL_MSI).
    Status signal_msi(Msi msi);
    /// Replaces the GSI routing: entry i routes GSI i. From the routes KVM tells which vectors need
    /// an EOI exit (level-triggered pins).
    Status set_msi_routes(std::span<const Msi> routes);

    /// Makes a guest write of `size` bytes at `address`, of any value, signal `eventfd`. KVM
    /// handles such a write without an exit to the VMM. Source: api.rst, KVM_IOEVENTFD.
    Status add_ioeventfd(Gpa address, std::uint32_t size, int eventfd);

    Result<kvm_clock_data> clock() const;
    Status set_clock(const kvm_clock_data& clock);

private:
    explicit Vm(UniqueFd fd) : fd_(std::move(fd)) {}
    struct Slot {
        Gpa base;
        std::byte* host = nullptr;
        std::uint64_t size = 0;
        std::string name;
    };
    Status set_slot(std::size_t slot, bool track);

    UniqueFd fd_;
    std::vector<Slot> slots_;
    std::uint32_t ring_entries_ = 0;
};

}  // namespace snapvm::kvm
