// SPDX-License-Identifier: Apache-2.0
// Tracks dirty pages with KVM's dirty rings, one for each vCPU. Source:
// Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING.
#pragma once

#include <memory>
#include <mutex>
#include <span>

#include "vmm/base/quiet_thread.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/kvm/vm.h"
#include "vmm/memory/dirty_tracker.h"

namespace snapvm::kvm {

/// Needs Vm::enable_dirty_ring before the vCPUs were created. A block's number is its slot's. `vm`
/// and `vcpus` must outlive it.
class RingTracker final : public DirtyTracker {
public:
    /// Entries of each vCPU's ring. A full ring is 256 MiB of guest memory.
    static constexpr std::uint32_t kEntries = 65536;

    RingTracker(Vm& vm, std::span<VcpuFd> vcpus, std::span<const MemoryBlock> blocks)
        : vm_(vm), vcpus_(vcpus), pending_(blocks), unprotected_(blocks), suspects_(blocks) {}
    [[nodiscard]] std::string_view name() const override { return "ring"; }
    /// Switches tracking on, which protects all memory at once.
    Status start() override;
    Status arm(std::size_t /*block*/, std::uint64_t /*first*/, std::uint64_t /*count*/) override { return {}; }
    Status collect(DirtySet& into) override;
    Status peek(DirtySet& into) override;
    void stop() override;

    /// Harvests the rings, so that a vCPU that left KVM_RUN with KVM_EXIT_DIRTY_RING_FULL can go
    /// on. The vCPU's thread calls it.
    Status make_room();

private:
    void take_entries();
    Status harvest();
    Status reset_rings();

    Vm& vm_;
    std::span<VcpuFd> vcpus_;
    std::mutex mutex_;   ///< guards all below; only QuietThread::mutex_ is taken under it
    DirtySet pending_;   ///< harvested, not yet collected
    DirtySet unprotected_;  ///< harvested since the last reset that succeeded
    DirtySet suspects_;     ///< pages of resets that fell short: maybe writable unlogged, so reported each time
    bool suspicious_ = false;  ///< suspects_ is not empty
    std::unique_ptr<QuietThread> quiet_;  ///< makes the resets; exists while tracking is on
};

}  // namespace snapvm::kvm
