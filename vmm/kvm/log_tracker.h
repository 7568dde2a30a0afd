// SPDX-License-Identifier: Apache-2.0
// Tracks dirty pages with KVM's dirty log in manual mode. Source: Documentation/virt/kvm/api.rst,
// KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG.
#pragma once

#include <vector>

#include "vmm/kvm/vm.h"
#include "vmm/memory/dirty_tracker.h"

namespace snapvm::kvm {

/// Needs Vm::enable_manual_dirty_log. A block's number is its slot's. `vm` must outlive it.
class LogTracker final : public DirtyTracker {
public:
    explicit LogTracker(Vm& vm) : vm_(vm) {}
    [[nodiscard]] std::string_view name() const override { return "log"; }
    /// Protects no page yet. KVM starts with all bits set (INITIALLY_SET), so the guest does not
    /// wait while all of a large memory is protected; `arm` protects it in parts.
    Status start() override { return vm_.track_writes(true); }
    Status arm(std::size_t block, std::uint64_t first, std::uint64_t count) override;
    Status collect(DirtySet& into) override;
    Status peek(DirtySet& into) override;
    void stop() override;

private:
    Status clear(std::size_t slot, std::span<const std::uint64_t> words, std::uint64_t first_word, std::uint64_t count);

    Vm& vm_;
    std::vector<std::uint64_t> log_;
};

}  // namespace snapvm::kvm
