// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/shell.h"

#include <string>

#include "vmm/base/try.h"
#include "vmm/kvm/ring_tracker.h"
#include "vmm/platform/platform.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {

Result<Shell> Shell::over(const kvm::System& system, const ShellConfig& config, std::span<const MemoryBlock> blocks) {
    return make(system, config, places_of(blocks));
}

Result<Shell> Shell::ahead(const kvm::System& system, const ShellConfig& config, std::span<const BlockSpec> blocks) {
    std::vector<ReservedBlock> reserved = TRY(ReservedBlock::all_of(blocks));
    std::vector<Place> places;
    places.reserve(reserved.size());
    for (const ReservedBlock& block : reserved) {
        places.push_back({block.spec, block.addresses.data()});
    }
    Shell shell = TRY(make(system, config, std::move(places)));
    shell.reserved_ = std::move(reserved);
    return shell;
}

std::vector<Shell::Place> Shell::places_of(std::span<const MemoryBlock> blocks) {
    std::vector<Place> places;
    for (const MemoryBlock& block : blocks) {
        places.push_back({block.spec(), block.host()});
    }
    return places;
}

// KVM dictates the order of the steps; where it does not, the fastest order is used.
Result<Shell> Shell::make(const kvm::System& system, const ShellConfig& config, std::vector<Place> places) {
    Shell shell(system, TRY(kvm::Vm::create(system)));
    // Before the vCPUs, since a vCPU is created with or without a LAPIC. A full irqchip before the
    // slots would make each slot cost 6 ms; the split one does not.
    TRY(shell.vm_.enable_split_irqchip(platform::kIoApicPins));
    TRY(shell.choose_tracking(config.dirty));  // before the vCPUs, whose rings are created with them
    // What is mapped at a slot's addresses may change later: the guest sees it at once (KVM
    // api.rst, 4.35). The addresses themselves stay.
    for (const Place& place : places) {
        TRY(shell.vm_.add_slot(place.spec.base, place.host, place.spec.size, name_of(place.spec.id)));
    }
    shell.places_ = std::move(places);
    shell.vcpus_.reserve(config.cpus);
    for (std::uint32_t index = 0; index < config.cpus; ++index) {
        shell.vcpus_.push_back(TRY(shell.vm_.create_vcpu(system, index)));
    }
    shell.msr_indices_ = order_msrs(TRY(system.msr_indices()));
    return shell;
}

Status Shell::choose_tracking(DirtyTracking wish) {
    const kvm::Capabilities& caps = system_->capabilities();
    const bool has_ring = caps.dirty_ring >= static_cast<int>(kvm::RingTracker::kEntries * sizeof(kvm_dirty_gfn));
    const bool has_log = (caps.manual_dirty_log & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0;
    if (wish == DirtyTracking::ring && !has_ring) {
        return fail(ErrorKind::unsupported, "this KVM has no dirty ring", "use --dirty log, or Linux 5.11 or newer");
    }
    if (wish == DirtyTracking::log && !has_log) {
        return fail(ErrorKind::unsupported, "this KVM has no manual dirty log",
                    "use --dirty ring, or Linux 5.0 or newer");
    }
    // The log takes no memory until it is used. A ring takes its memory when its vCPU is created.
    if (has_log && wish != DirtyTracking::ring) {
        tracking_ = DirtyTracking::log;
        return vm_.enable_manual_dirty_log(*system_);
    }
    if (has_ring) {
        tracking_ = DirtyTracking::ring;
        return vm_.enable_dirty_ring(*system_, kvm::RingTracker::kEntries);
    }
    return {};
}

Status Shell::check_fits(const ShellConfig& config, std::span<const MemoryBlock> blocks) const {
    if (config.cpus != vcpus_.size()) {
        return fail(ErrorKind::usage, "the shell has " + std::to_string(vcpus_.size()) + " vCPUs, the machine " +
                                          std::to_string(config.cpus));
    }
    if (config.dirty != DirtyTracking::automatic && config.dirty != tracking_) {
        return fail(ErrorKind::usage, "the shell tracks writes in another way than the machine is to");
    }
    if (places_of(blocks) != places_) {
        return fail(ErrorKind::usage, "the shell's memory slots are not over the machine's memory");
    }
    return {};
}

}  // namespace snapvm
