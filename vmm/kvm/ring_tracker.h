// SPDX-License-Identifier: Apache-2.0
// Dirty pages by KVM's dirty rings, one a vCPU. Source: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING.
#pragma once

#include <memory>
#include <mutex>
#include <span>

#include "vmm/base/quiet_thread.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/kvm/vm.h"
#include "vmm/memory/dirty_tracker.h"

namespace snapvm::kvm {

/// Needs Vm::enable_dirty_ring before the vCPUs were created. Blocks are slots. `vm` and `vcpus` must outlive it.
class RingTracker final : public DirtyTracker {
public:
    /// Entries a vCPU: 256 MiB of guest memory between two harvests.
    static constexpr std::uint32_t kEntries = 65536;

    RingTracker(Vm& vm, std::span<VcpuFd> vcpus, std::span<const MemoryBlock> blocks)
        : vm_(vm), vcpus_(vcpus), pending_(blocks), unprotected_(blocks), suspects_(blocks) {}
    [[nodiscard]] std::string_view name() const override { return "ring"; }
    /// Protects everything.
    Status start() override;
    Status arm(std::size_t /*block*/, std::uint64_t /*first*/, std::uint64_t /*count*/) override { return {}; }
    Status collect(DirtySet& into) override;
    Status peek(DirtySet& into) override;
    void stop() override;

    /// A vCPU has left KVM_RUN because its ring is full (KVM_EXIT_DIRTY_RING_FULL): on its thread.
    Status make_room();

private:
    void take_entries();
    Status harvest();
    Status reset_rings();

    Vm& vm_;
    std::span<VcpuFd> vcpus_;
    std::mutex mutex_;   ///< guards the harvest; innermost
    DirtySet pending_;   ///< harvested, not yet collected
    DirtySet unprotected_;  ///< harvested since the last reset that went through
    DirtySet suspects_;     ///< of resets that did not: maybe writable without being logged, so reported each time
    bool suspicious_ = false;  ///< there are such
    std::unique_ptr<QuietThread> quiet_;  ///< while it is on
};

}  // namespace snapvm::kvm
