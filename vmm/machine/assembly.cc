// SPDX-License-Identifier: Apache-2.0
// Builds a machine in its shell.
#include <algorithm>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/kvm/log_tracker.h"
#include "vmm/machine/clock_state.h"
#include "vmm/machine/machine.h"
#include "vmm/vcpu/cpuid.h"
#include "vmm/vcpu/tsc.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {
namespace {

Result<GuestMemory> fresh_memory(const MachineConfig& config) {
    std::vector<MemoryBlock> blocks;
    for (const BlockSpec& spec : config.blocks()) {
        blocks.push_back(TRY(MemoryBlock::anonymous(spec, config.pages)));
    }
    return GuestMemory::of(std::move(blocks));
}

// Checks the configuration, and that the memory blocks are those that it asks for.
Status check_saved(const MachineConfig& config, const GuestMemory& memory) {
    TRY(config.validate());
    const std::vector<BlockSpec> wanted = config.blocks();
    if (!std::ranges::equal(memory.blocks(), wanted, {}, &MemoryBlock::spec)) {
        return fail(ErrorKind::invalid, "the saved machine's memory blocks are not those of its configuration (" +
                                            std::to_string(config.memory_bytes >> 20) + " MiB)");
    }
    return {};
}

}  // namespace

StateRecord encode_clock(const kvm_clock_data& clock) {
    Encoder out;
    out.u64(clock.clock);
    out.u32(clock.flags);
    out.u64(clock.realtime);
    out.u64(clock.host_tsc);
    return {RecordKind::clock, kClockStateVersion, 0, out.take()};
}

Result<kvm_clock_data> decode_clock(const StateRecord& record) {
    Decoder in(record.bytes);
    kvm_clock_data clock{};
    clock.clock = in.u64();
    clock.flags = in.u32();
    clock.realtime = in.u64();
    clock.host_tsc = in.u64();
    TRY(in.finish("clock's state"));
    return clock;
}

Machine::Machine(Shell shell, MachineConfig config, GuestMemory memory)
    : config_(std::move(config)), memory_(std::move(memory)), shell_(std::move(shell)) {}

Result<std::unique_ptr<Machine>> Machine::create(const kvm::System& system, const MachineConfig& config,
                                                 const BootSource& source, const HostSetup& host) {
    TRY(config.validate());
    GuestMemory memory = TRY(fresh_memory(config));
    // The firmware tables list the devices of this machine.
    BootSource with_devices = source;
    with_devices.virtio_devices = static_cast<std::uint32_t>(config.devices.virtio_devices());
    const BootEntry entry = TRY(load_guest(memory, with_devices));
    Shell shell = TRY(Shell::over(system, {config.cpus, host.dirty}, memory.blocks()));
    std::unique_ptr<Machine> machine = TRY(assemble(std::move(shell), config, std::move(memory), nullptr, host));
    const CpuidTable supported = TRY(system.supported_cpuid());
    const bool deadline_timer = system.capabilities().tsc_deadline_timer != 0;
    for (kvm::VcpuFd& vcpu : machine->vcpus_->vcpus()) {
        TRY(vcpu.set_cpuid(cpuid_for_vcpu(supported, vcpu.index(), config.cpus, deadline_timer)));
    }
    // KVM creates the other vCPUs in the state in which they wait for INIT and SIPI.
    TRY(set_boot_registers(machine->vcpus_->vcpus().front(), entry));
    return machine;
}

Result<std::unique_ptr<Machine>> Machine::restore(const kvm::System& system, const SavedMachine& saved,
                                                  GuestMemory memory, const HostSetup& host) {
    TRY(check_saved(saved.config, memory));
    Shell shell = TRY(Shell::over(system, {saved.config.cpus, host.dirty}, memory.blocks()));
    return adopt(std::move(shell), saved, std::move(memory), host);
}

Result<std::unique_ptr<Machine>> Machine::restore(Shell shell, const SavedMachine& saved, GuestMemory memory,
                                                  const HostSetup& host) {
    TRY(check_saved(saved.config, memory));
    TRY(shell.check_fits({saved.config.cpus, host.dirty}, memory.blocks()));
    return adopt(std::move(shell), saved, std::move(memory), host);
}

Result<std::unique_ptr<Machine>> Machine::adopt(Shell shell, const SavedMachine& saved, GuestMemory memory,
                                                const HostSetup& host) {
    RecordReader records(saved.records);
    std::unique_ptr<Machine> machine = TRY(assemble(std::move(shell), saved.config, std::move(memory), &records, host));
    machine->restored_ = true;
    const StateRecord* clock = TRY(records.take(RecordKind::clock, 0, kClockStateVersion));
    machine->restored_clock_ = TRY(decode_clock(*clock));
    machine->gap_ = host.gap;
    if (host.gap == GapMode::seen && machine->restored_clock_->realtime == 0) {
        return fail(ErrorKind::unsupported,
                    "the snapshot does not say when it was taken, so --clock continue cannot work",
                    "restore it with --clock resume");
    }
    TRY(machine->load_vcpus(records));
    // A record that nothing claims would be a lost device.
    TRY(records.finish());
    return machine;
}

Result<std::unique_ptr<Machine>> Machine::assemble(Shell shell, const MachineConfig& config, GuestMemory memory,
                                                   RecordReader* records, const HostSetup& host) {
    // The constructor is private, so std::make_unique cannot call it.
    std::unique_ptr<Machine> machine(new Machine(std::move(shell), config, std::move(memory)));
    machine->drain_limit_ = host.drain_limit;
    TRY(machine->build_devices(records, host.openers));
    TRY(machine->build_vcpus(host.repair_kernel_mode));
    machine->build_tracker();
    return machine;
}

void Machine::build_tracker() {
    std::unique_ptr<DirtyTracker> tracker;
    if (shell_.tracking() == DirtyTracking::log) {
        tracker = std::make_unique<kvm::LogTracker>(shell_.vm());
    } else if (shell_.tracking() == DirtyTracking::ring) {
        auto ring = std::make_unique<kvm::RingTracker>(shell_.vm(), shell_.vcpus(), memory_.blocks());
        ring_ = ring.get();
        tracker = std::move(ring);
    }
    if (tracker) {
        dirty_ = std::make_unique<DirtyFeed>(memory_, std::move(tracker));
    }
}

Status Machine::build_devices(RecordReader* records, const Openers& openers) {
    if (config_.devices.virtio_devices() > 0) {
        loop_ = TRY(EventLoop::create());
    }
    const DeviceHost host{.interrupts = nullptr,
                          .msi = *this,
                          .serial_output = serial_.output(),
                          .console_output = virtio_console_.output(),
                          .events = *this,
                          .pauses = *this,
                          .memory = memory_,
                          .loop = loop_.get()};
    Openers for_devices = openers;
    for_devices.restored = records != nullptr;
    devices_ = TRY(DeviceSet::build(host, for_devices, config_.devices));
    if (records == nullptr) {
        TRY(devices_.power_on());
    } else {
        devices_.adopt(TRY(devices_.parse(*records)));
    }
    for (const DeviceSet::Entry& device : devices_.all()) {
        TRY(put_on_bus(device));
    }
    balloon_.emplace(devices_.balloon(), gate_, config_.memory_bytes);
    connect_lines();
    return {};
}

void Machine::connect_lines() {
    Serial& serial = devices_.serial();
    serial_.connect({.receive = [&serial](std::span<const std::uint8_t> bytes) { return serial.receive(bytes); },
                     // While the machine is frozen, the device's interrupt would reach a LAPIC that
                     // is already saved, and the byte would leave the port before the port is
                     // saved. So it is deferred.
                     .output_ready =
                         [this, &serial] {
                             gate_.pass_or_defer(InputGate::Deferred::serial_output,
                                                 [&serial] { serial.output_ready(); });
                         }});
    if (const auto console = devices_.console()) {
        virtio_console_.connect({.receive =
                                     [console](std::span<const std::uint8_t> bytes) {
                                         return console.locked(
                                             [&](virtio::Console& device) { return device.receive(bytes); });
                                     },
                                 // It only asks the loop to call the device, which the loop does
                                 // not do while it is quiesced.
                                 .output_ready = [console] { console.unlocked().output_ready(); }});
    }
}

Status Machine::put_on_bus(const DeviceSet::Entry& device) {
    for (const BusRange& range : device.attached.ranges) {
        Bus& bus = range.kind == BusRange::Kind::port ? ports_ : mmio_;
        TRY(bus.add(range.base, range.size, *range.device, std::string(device.name())));
    }
    // Without KVM_IOEVENTFD the bus writes the eventfd, after an exit.
    for (const IoEventFd& ioeventfd : device.attached.ioeventfds) {
        if (shell_.system().capabilities().ioeventfd != 0) {
            TRY(shell_.vm().add_ioeventfd(Gpa{ioeventfd.address}, ioeventfd.size, ioeventfd.eventfd));
        }
    }
    return {};
}

Status Machine::build_vcpus(bool repair_kernel_mode) {
    std::vector<std::unique_ptr<ExitRepair>> repairs;
    for (std::uint32_t index = 0; repair_kernel_mode && index < config_.cpus; ++index) {
        repairs.push_back(TRY(emulate::repair_kernel_mode(shell_.system(), memory_)));
    }
    VcpuEvents& events = *this;
    vcpus_ = std::make_unique<VcpuSet>(shell_.vcpus(), ports_, mmio_, events, std::move(repairs));
    return {};
}

// Checks whether a guest that was shown `saved` can run here. KVM's supported table decides, except
// on hosts whose guests see more than that (no CPUID interception at user level). There a vCPU that
// was given the table reads back what its guest will see.
Status Machine::check_features(const CpuidTable& saved) {
    const CpuidTable supported = TRY(shell_.system().supported_cpuid());
    const Status plain = check_cpuid(saved, supported);
    if (plain) {
        return {};
    }
    kvm::VcpuFd& probe = vcpus_->vcpus().front();
    TRY(probe.set_cpuid(supported));
    return check_cpuid(saved, TRY(probe.cpuid()));
}

Status Machine::load_vcpus(RecordReader& records) {
    for (kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
        const StateRecord* record = TRY(records.take(RecordKind::vcpu, vcpu.index(), VcpuStateV1::kVersion));
        VcpuStateV1 state = TRY(VcpuStateV1::decode(record->bytes));
        held_msrs_.push_back(take_late_msrs(state));
        if (vcpu.index() == 0) {
            TRY(check_features(state.cpuid));  // all vCPUs of a machine show the same features
            saved_tsc_khz_ = state.tsc_khz;
        }
        TRY(match_tsc_frequency(shell_.system(), vcpu, state.tsc_khz));
        TRY(apply_vcpu(shell_.system(), vcpu, state));
    }
    return {};
}

}  // namespace snapvm
