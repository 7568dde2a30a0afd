// SPDX-License-Identifier: Apache-2.0
// One KVM machine's descriptor. Source: Documentation/virt/kvm/api.rst, "vm ioctls".
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

/// A message-signalled interrupt as the LAPICs take it (Intel SDM volume 3, "Message Signalled Interrupts").
struct Msi {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
};

/// Owns a VM descriptor. Interrupt delivery may be called from any thread, what is about tracked writes from one at a time while the vCPUs
/// run; the rest during assembly or while they are parked.
class Vm {
public:
    /// KVM_CREATE_VM, then the addresses that Intel hosts without unrestricted guests need before the first vCPU.
    static Result<Vm> create(const System& system);

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// LAPICs in KVM, IOAPIC in our hands, with `pins` routes reserved for it. Before the first vCPU.
    Status enable_split_irqchip(std::uint32_t pins);
    /// A ring of `entries` dirty pages (a power of two) for each vCPU, instead of the dirty log. Before the first vCPU.
    Status enable_dirty_ring(const System& system, std::uint32_t entries);
    /// The dirty log's manual mode: bits are cleared, and pages protected, by clear_dirty_log alone; on switching the log on all are set.
    Status enable_manual_dirty_log(const System& system);

    /// KVM_SET_USER_MEMORY_REGION. Slots are numbered in the order of the calls.
    Status add_slot(Gpa base, std::byte* host, std::uint64_t size, std::string_view name);
    [[nodiscard]] std::size_t slots() const { return slots_.size(); }
    [[nodiscard]] std::uint64_t slot_pages(std::size_t slot) const { return slots_[slot].size / kPageSize; }
    /// Tracks writes to every slot, or stops it.
    Status track_writes(bool on);
    /// Copies a slot's dirty bits out, without clearing any (manual mode). `words` holds a bit a page, in whole words.
    Status dirty_log(std::size_t slot, std::span<std::uint64_t> words);
    /// Clears the bits that are set in `words` for pages `first` (a multiple of 64) and on, and protects those pages.
    Status clear_dirty_log(std::size_t slot, std::uint64_t first, std::uint64_t count, std::span<const std::uint64_t> words);
    /// Protects the pages whose ring entries were harvested. What they hold may be read after this, not before (KVM api.rst, 8.29). Linux 6.16
    /// and newer leave it early when the calling thread has a signal or io_uring's work pending, and forget the up to 64 pages they were at:
    /// those stay writable without being logged, and the count returned need not show it. So from a QuietThread only, and with a look at
    /// VcpuFd::dirty_ring_reset_fell_short.
    Status reset_dirty_rings();

    Result<VcpuFd> create_vcpu(const System& system, std::uint32_t index);

    /// Injects an MSI now.
    Status signal_msi(Msi msi);
    /// Replaces the GSI routing: entry i routes GSI i. KVM needs it to tell which vectors want an EOI exit (level-triggered pins).
    Status set_msi_routes(std::span<const Msi> routes);

    /// A write of `size` bytes to guest-physical `address`, whatever the value, signals `eventfd` and does not leave the guest for long.
    /// Source: api.rst, KVM_IOEVENTFD.
    Status add_doorbell(Gpa address, std::uint32_t size, int eventfd);

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
