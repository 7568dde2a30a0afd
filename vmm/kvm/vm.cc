// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vm.h"

#include <cstddef>
#include <vector>

#include "vmm/base/try.h"
#include "vmm/kvm/ioctl.h"

namespace snapvm::kvm {
namespace {

constexpr const char* kObject = "machine";
// Four pages that KVM uses on Intel hosts (for real mode on old processors). They are in the hole
// below 4 GiB, below the BIOS area.
constexpr std::uint64_t kIdentityMap = 0xFFFBC000;
constexpr unsigned long kTss = 0xFFFBD000;

}  // namespace

Result<Vm> Vm::create(const System& system) {
    Vm vm(UniqueFd(TRY(KVM_IOCTL(system.fd(), KVM_CREATE_VM, 0UL, kObject))));
    std::uint64_t identity_map = kIdentityMap;
    // KVM wants the identity map before the first vCPU. It ignores both addresses on hardware that
    // does not need them.
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

Status Vm::enable_dirty_ring(const System& system, std::uint32_t entries) {
    kvm_enable_cap cap{};
    // Takes the acquire-release kind if KVM has it: it behaves the same on x86, and other
    // architectures have no other kind.
    cap.cap =
        system.check(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0 ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL : KVM_CAP_DIRTY_LOG_RING;
    cap.args[0] = entries * sizeof(kvm_dirty_gfn);
    TRY(KVM_IOCTL(fd(), KVM_ENABLE_CAP, &cap, "dirty ring"));
    ring_entries_ = entries;
    return {};
}

Status Vm::enable_manual_dirty_log(const System& system) {
    kvm_enable_cap cap{};
    cap.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    cap.args[0] = static_cast<std::uint64_t>(system.capabilities().manual_dirty_log) &
                  (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
    TRY(KVM_IOCTL(fd(), KVM_ENABLE_CAP, &cap, "manual dirty log"));
    return {};
}

Status Vm::set_slot(std::size_t slot, bool track) {
    const Slot& memory = slots_[slot];
    kvm_userspace_memory_region region{};
    region.slot = static_cast<std::uint32_t>(slot);
    region.flags = track ? KVM_MEM_LOG_DIRTY_PAGES : 0;
    region.guest_phys_addr = memory.base.value;
    region.memory_size = memory.size;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.host);
    TRY(KVM_IOCTL(fd(), KVM_SET_USER_MEMORY_REGION, &region, memory.name));
    return {};
}

Status Vm::add_slot(Gpa base, std::byte* host, std::uint64_t size, std::string_view name) {
    slots_.push_back({base, host, size, std::string(name)});
    return set_slot(slots_.size() - 1, false);
}

Status Vm::track_writes(bool on) {
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
        TRY(set_slot(slot, on));
    }
    return {};
}

Status Vm::dirty_log(std::size_t slot, std::span<std::uint64_t> words) {
    kvm_dirty_log log{};
    log.slot = static_cast<std::uint32_t>(slot);
    log.dirty_bitmap = words.data();
    TRY(KVM_IOCTL(fd(), KVM_GET_DIRTY_LOG, &log, slots_[slot].name));
    return {};
}

Status Vm::clear_dirty_log(std::size_t slot, std::uint64_t first, std::uint64_t count,
                           std::span<const std::uint64_t> words) {
    kvm_clear_dirty_log clear{};
    clear.slot = static_cast<std::uint32_t>(slot);
    clear.first_page = first;
    clear.num_pages = static_cast<std::uint32_t>(count);
    clear.dirty_bitmap = const_cast<std::uint64_t*>(words.data());  // the union in the ABI has no const
    TRY(KVM_IOCTL(fd(), KVM_CLEAR_DIRTY_LOG, &clear, slots_[slot].name));
    return {};
}

Status Vm::reset_dirty_rings() {
    TRY(KVM_IOCTL(fd(), KVM_RESET_DIRTY_RINGS, 0UL, kObject));
    return {};
}

Result<VcpuFd> Vm::create_vcpu(const System& system, std::uint32_t index) {
    return VcpuFd::create(system, fd(), index, ring_entries_);
}

Status Vm::signal_msi(Msi msi) {
    kvm_msi message{};
    message.address_lo = static_cast<std::uint32_t>(msi.address);
    message.address_hi = static_cast<std::uint32_t>(msi.address >> 32);
    message.data = msi.data;
    // A result of 0 means that the guest blocks the interrupt (LAPIC off, or no such destination).
    // It is lost, as on hardware.
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

Status Vm::add_ioeventfd(Gpa address, std::uint32_t size, int eventfd) {
    kvm_ioeventfd ioeventfd{};
    ioeventfd.addr = address.value;
    ioeventfd.len = size;
    ioeventfd.fd = eventfd;
    TRY(KVM_IOCTL(fd(), KVM_IOEVENTFD, &ioeventfd, kObject));
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
