// SPDX-License-Identifier: Apache-2.0
// The parts of a machine that do not depend on its identity (DECISIONS.md, "Shells").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/kvm/vm.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// How guest writes are tracked, if a snapshot asks for it (`--dirty`). A machine uses the log or
/// the ring, chosen before its first vCPU. automatic: the log (vmm/DECISIONS.md, "Dirty log or
/// ring").
enum class DirtyTracking : std::uint8_t { automatic, log, ring };

/// What must be known of a machine to make its shell.
struct ShellConfig {
    std::uint32_t cpus = 1;
    DirtyTracking dirty = DirtyTracking::automatic;
};

/// KVM's side of a machine that has no state yet: the VM with its split irqchip, its memory slots,
/// its kind of dirty tracking, and vCPUs that have never run. One thread at a time uses it. The
/// system must outlive it.
class Shell {
public:
    /// Makes a shell whose slots lie over these blocks. Fails with unsupported if KVM lacks the
    /// tracking that is asked for.
    static Result<Shell> over(const kvm::System& system, const ShellConfig& config,
                              std::span<const MemoryBlock> blocks);
    /// Makes a shell before its machine's memory is there: the slots lie over addresses that are
    /// only reserved. Fails like `over`.
    static Result<Shell> ahead(const kvm::System& system, const ShellConfig& config, std::span<const BlockSpec> blocks);

    /// Gives away the addresses that `ahead` has reserved. Memory that is mapped over them (by
    /// open_snapshot) is the guest's.
    [[nodiscard]] std::vector<ReservedBlock> take_addresses() { return std::exchange(reserved_, {}); }
    /// Fails with usage, and says what is different, if the slots are not over these blocks, or if
    /// the shell has other vCPUs or another tracking than asked for.
    [[nodiscard]] Status check_fits(const ShellConfig& config, std::span<const MemoryBlock> blocks) const;

    [[nodiscard]] const kvm::System& system() const { return *system_; }
    [[nodiscard]] kvm::Vm& vm() { return vm_; }
    [[nodiscard]] const kvm::Vm& vm() const { return vm_; }
    [[nodiscard]] std::span<kvm::VcpuFd> vcpus() { return vcpus_; }
    /// Returns the kind of tracking. automatic: KVM has none.
    [[nodiscard]] DirtyTracking tracking() const { return tracking_; }
    /// Returns the MSRs of a vCPU's state, in the order in which they are saved.
    [[nodiscard]] std::span<const std::uint32_t> msr_indices() const { return msr_indices_; }

private:
    /// The host addresses of a block, reserved or with memory.
    struct Place {
        BlockSpec spec;
        std::byte* host = nullptr;
        friend bool operator==(const Place&, const Place&) = default;
    };
    Shell(const kvm::System& system, kvm::Vm vm) : system_(&system), vm_(std::move(vm)) {}
    static Result<Shell> make(const kvm::System& system, const ShellConfig& config, std::vector<Place> places);
    static std::vector<Place> places_of(std::span<const MemoryBlock> blocks);
    Status choose_tracking(DirtyTracking wish);

    const kvm::System* system_;
    std::vector<ReservedBlock> reserved_;
    std::vector<Place> places_;  ///< of the slots
    kvm::Vm vm_;
    std::vector<kvm::VcpuFd> vcpus_;
    DirtyTracking tracking_ = DirtyTracking::automatic;
    std::vector<std::uint32_t> msr_indices_;
};

}  // namespace snapvm
