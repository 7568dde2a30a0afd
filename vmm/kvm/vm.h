// SPDX-License-Identifier: Apache-2.0
// One KVM machine's descriptor. Source: Documentation/virt/kvm/api.rst, "vm ioctls".
#pragma once

#include <cstdint>
#include <span>

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

/// Owns a VM descriptor. Interrupt delivery may be called from any thread; the rest during assembly or while the vCPUs are parked.
class Vm {
public:
    /// KVM_CREATE_VM, then the addresses that Intel hosts without unrestricted guests need before the first vCPU.
    static Result<Vm> create(const System& system);

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// LAPICs in KVM, IOAPIC in our hands, with `pins` routes reserved for it. Before the first vCPU.
    Status enable_split_irqchip(std::uint32_t pins);
    /// KVM_SET_USER_MEMORY_REGION.
    Status set_slot(std::uint32_t slot, Gpa base, std::byte* host, std::uint64_t size, std::string_view name);
    Result<VcpuFd> create_vcpu(const System& system, std::uint32_t index);

    /// Injects an MSI now.
    Status signal_msi(Msi msi);
    /// Replaces the GSI routing: entry i routes GSI i. KVM needs it to tell which vectors want an EOI exit (level-triggered pins).
    Status set_msi_routes(std::span<const Msi> routes);

    Result<kvm_clock_data> clock() const;
    Status set_clock(const kvm_clock_data& clock);

private:
    explicit Vm(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

}  // namespace snapvm::kvm
