// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vm.h"

#include <cstddef>
#include <vector>

#include "vmm/base/try.h"
#include "vmm/kvm/ioctl.h"

namespace snapvm::kvm {
namespace {

constexpr const char* kObject = "machine";
// Four pages that KVM keeps for itself on Intel hosts (real mode on old processors): in the hole, below the BIOS area.
constexpr std::uint64_t kIdentityMap = 0xFFFBC000;
constexpr unsigned long kTss = 0xFFFBD000;

}  // namespace

Result<Vm> Vm::create(const System& system) {
    Vm vm(UniqueFd(TRY(KVM_IOCTL(system.fd(), KVM_CREATE_VM, 0UL, kObject))));
    std::uint64_t identity_map = kIdentityMap;
    // KVM wants the identity map before the first vCPU, and both are ignored where the hardware does without.
    TRY(KVM_IOCTL(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map, kObject));
    TRY(KVM_IOCTL(vm.fd(), KVM_SET_TSS_ADDR, kTss, kObject));
    return vm;
}

Status Vm::enable_split_irqchip(std::uint32_t pins) {
    kvm_enable_cap cap{};
    cap.cap = KVM_CAP_SPLIT_IRQCHIP;
    cap.args[0] = pins;
    TRY(KVM_IOCTL(fd(), KVM_ENABLE_CAP, &cap, "split irqchip"));
    return {};
}

Status Vm::set_slot(std::uint32_t slot, Gpa base, std::byte* host, std::uint64_t size, std::string_view name) {
    kvm_userspace_memory_region region{};
    region.slot = slot;
    region.guest_phys_addr = base.value;
    region.memory_size = size;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(host);
    TRY(KVM_IOCTL(fd(), KVM_SET_USER_MEMORY_REGION, &region, name));
    return {};
}

Result<VcpuFd> Vm::create_vcpu(const System& system, std::uint32_t index) { return VcpuFd::create(system, fd(), index); }

Status Vm::signal_msi(Msi msi) {
    kvm_msi message{};
    message.address_lo = static_cast<std::uint32_t>(msi.address);
    message.address_hi = static_cast<std::uint32_t>(msi.address >> 32);
    message.data = msi.data;
    // 0 means that the guest has blocked it (LAPIC off, or no such destination): as on hardware, it is gone.
    TRY(KVM_IOCTL(fd(), KVM_SIGNAL_MSI, &message, kObject));
    return {};
}

Status Vm::set_msi_routes(std::span<const Msi> routes) {
    std::vector<std::byte> buffer(sizeof(kvm_irq_routing) + routes.size() * sizeof(kvm_irq_routing_entry));
    auto* table = reinterpret_cast<kvm_irq_routing*>(buffer.data());
    table->nr = static_cast<std::uint32_t>(routes.size());
    for (std::size_t i = 0; i < routes.size(); ++i) {
        kvm_irq_routing_entry& entry = table->entries[i];
        entry.gsi = static_cast<std::uint32_t>(i);
        entry.type = KVM_IRQ_ROUTING_MSI;
        entry.u.msi.address_lo = static_cast<std::uint32_t>(routes[i].address);
        entry.u.msi.address_hi = static_cast<std::uint32_t>(routes[i].address >> 32);
        entry.u.msi.data = routes[i].data;
    }
    TRY(KVM_IOCTL(fd(), KVM_SET_GSI_ROUTING, table, kObject));
    return {};
}

Result<kvm_clock_data> Vm::clock() const {
    kvm_clock_data clock{};
    TRY(KVM_IOCTL(fd(), KVM_GET_CLOCK, &clock, kObject));
    return clock;
}

Status Vm::set_clock(const kvm_clock_data& clock) {
    kvm_clock_data copy = clock;
    TRY(KVM_IOCTL(fd(), KVM_SET_CLOCK, &copy, kObject));
    return {};
}

}  // namespace snapvm::kvm
