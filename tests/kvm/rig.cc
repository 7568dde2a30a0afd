// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/rig.h"

#include <algorithm>
#include <cstring>

#include "vmm/boot/loader.h"
#include "vmm/emulate/kernel_mode_repair.h"
#include "vmm/platform/platform.h"

namespace snapvm::test {
namespace {

MachineConfig tiny_config(std::uint32_t cpus) {
    MachineConfig config;
    config.memory_bytes = tiny::kMemory;
    config.cpus = cpus;
    config.kernel = "tiny";
    config.pages = PagePolicy::small_pages;
    config.machine_id = need(Uuid::random());
    return config;
}

}  // namespace

void CountingDevice::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    const std::uint32_t value = reads.fetch_add(1);
    std::ranges::fill(data, std::byte{0});
    std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

void CountingDevice::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    const std::uint32_t expected = writes.fetch_add(1);
    if (std::memcmp(data.data(), &expected, std::min(data.size(), sizeof expected)) != 0) {
        wrong_writes.fetch_add(1);
    }
}

Rig::Rig(const kvm::System& system, const TinyGuest& guest, std::uint32_t cpus) : system_(system) {
    std::vector<MemoryBlock> blocks;
    for (const BlockSpec& spec : tiny_config(cpus).blocks()) {
        blocks.push_back(need(MemoryBlock::anonymous(spec, PagePolicy::small_pages)));
    }
    memory_ = need(GuestMemory::of(std::move(blocks)));
    const std::vector<std::byte> elf = tiny_elf(guest);
    const BootSource source{.kernel = elf, .initrds = {}, .cmdline = "", .cpus = cpus, .force_linux64 = true};
    const BootEntry entry = need(load_guest(memory_, source));
    write_tiny_tables(memory_, guest);
    need(ports_.add(kCounterPort, 4, device, "counter"));
    need(mmio_.add(kCounterMmio.value, kPageSize, device, "counter"));
    msr_indices_ = order_msrs(need(system.msr_indices()));
    build(cpus);
    const CpuidTable supported = need(system.supported_cpuid());
    for (kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
        need(vcpu.set_cpuid(cpuid_for_vcpu(supported, vcpu.index(), cpus, true)));
    }
    need(set_boot_registers(vcpus_->vcpus().front(), entry));
}

void Rig::build(std::uint32_t cpus) {
    vm_.emplace(need(kvm::Vm::create(system_)));
    need(vm_->enable_split_irqchip(platform::kIoApicPins));
    for (const MemoryBlock& block : memory_.blocks()) {
        need(vm_->add_slot(block.spec().base, block.host(), block.spec().size, name_of(block.spec().id)));
    }
    std::vector<std::unique_ptr<ExitRepair>> repairs;
    for (std::uint32_t index = 0; index < cpus; ++index) {
        vcpu_fds_.push_back(need(vm_->create_vcpu(system_, index)));
        if (emulate::kernel_mode_is_emulated()) {
            repairs.push_back(need(emulate::repair_kernel_mode(system_, memory_)));
        }
    }
    VcpuEvents& events = *this;
    vcpus_ = std::make_unique<VcpuSet>(vcpu_fds_, ports_, mmio_, events, std::move(repairs));
}

void Rig::move_to_new_vm() {
    std::vector<VcpuStateV1> states;
    for (const kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
        const VcpuStateV1 state = need(capture_vcpu(system_, vcpu, msr_indices_));
        states.push_back(need(VcpuStateV1::decode(state.encode())));
    }
    vcpus_.reset();
    vcpu_fds_.clear();
    vm_.reset();
    build(static_cast<std::uint32_t>(states.size()));
    for (kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
        need(apply_vcpu(system_, vcpu, states[vcpu.index()]));
    }
}

std::string Rig::trouble() const {
    const std::lock_guard lock(mutex_);
    return trouble_;
}

std::uint64_t Rig::counter(std::uint64_t index) const {
    return need(memory_.load<std::uint64_t>(tiny::kData + index * 8));
}

void Rig::triple_fault(const kvm::VcpuFd& vcpu) {
    const std::lock_guard lock(mutex_);
    trouble_ = "triple fault of vCPU " + std::to_string(vcpu.index());
}

void Rig::failed(Error error) {
    const std::lock_guard lock(mutex_);
    trouble_ = error.message();
}

std::unique_ptr<Machine> tiny_machine(const kvm::System& system, const TinyGuest& guest, std::uint32_t cpus) {
    return tiny_machine(system, guest, tiny_config(cpus));
}

std::unique_ptr<Machine> tiny_machine(const kvm::System& system, const TinyGuest& guest, const MachineConfig& config,
                                      const HostSetup& host) {
    const std::vector<std::byte> elf = tiny_elf(guest);
    const BootSource source{.kernel = elf, .initrds = {}, .cmdline = "", .cpus = config.cpus, .force_linux64 = true};
    std::unique_ptr<Machine> machine = need(Machine::create(system, config, source, host));
    write_tiny_tables(machine->memory(), guest);
    return machine;
}

std::unique_ptr<Machine> booted_tiny_machine(const kvm::System& system, const TinyGuest& guest) {
    std::unique_ptr<Machine> machine = tiny_machine(system, guest);
    need(machine->resume());
    EXPECT_TRUE(machine->wait_ready(soon()));
    return machine;
}

}  // namespace snapvm::test
