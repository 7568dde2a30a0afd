// SPDX-License-Identifier: Apache-2.0
// How a machine is put together. The order of the steps is KVM's, and where KVM leaves it open, the quickest.
#include <algorithm>

#include "devices/ged/ged.h"
#include "devices/ioapic/ioapic.h"
#include "devices/pvpanic/pvpanic.h"
#include "devices/serial/serial.h"
#include "devices/test_port/test_port.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio/mmio.h"
#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/kvm/log_tracker.h"
#include "vmm/machine/clock_state.h"
#include "vmm/machine/machine.h"
#include "vmm/platform/platform.h"
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

// A guest whose memory is not where its state says would run into nothing.
Status check_memory(const MachineConfig& config, const GuestMemory& memory) {
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

Machine::Machine(const kvm::System& system, MachineConfig config, GuestMemory memory, kvm::Vm vm)
    : system_(system), config_(std::move(config)), memory_(std::move(memory)), vm_(std::move(vm)) {}

Result<std::unique_ptr<Machine>> Machine::create(const kvm::System& system, const MachineConfig& config, const BootSource& source,
                                                 const HostSetup& host) {
    TRY(config.validate());
    GuestMemory memory = TRY(fresh_memory(config));
    // The firmware tables tell of the devices that this machine has.
    BootSource with_devices = source;
    with_devices.virtio_devices = static_cast<std::uint32_t>(config.devices.virtio_devices());
    const BootEntry entry = TRY(load_guest(memory, with_devices));
    std::unique_ptr<Machine> machine = TRY(assemble(system, config, std::move(memory), nullptr, host));
    const CpuidTable supported = TRY(system.supported_cpuid());
    const bool deadline_timer = system.capabilities().tsc_deadline_timer != 0;
    for (kvm::VcpuFd& vcpu : machine->vcpus_->vcpus()) {
        TRY(vcpu.set_cpuid(cpuid_for_vcpu(supported, vcpu.index(), config.cpus, deadline_timer)));
    }
    // The others wait for INIT and SIPI in KVM: they are created in that state.
    TRY(set_boot_registers(machine->vcpus_->vcpus().front(), entry));
    return machine;
}

Result<std::unique_ptr<Machine>> Machine::restore(const kvm::System& system, const SavedMachine& saved, GuestMemory memory,
                                                  const HostSetup& host) {
    TRY(saved.config.validate());
    TRY(check_memory(saved.config, memory));
    RecordReader records(saved.records);
    std::unique_ptr<Machine> machine = TRY(assemble(system, saved.config, std::move(memory), &records, host));
    machine->restored_ = true;
    const StateRecord* clock = TRY(records.take(RecordKind::clock, 0, kClockStateVersion));
    machine->restored_clock_ = TRY(decode_clock(*clock));
    machine->gap_ = host.gap;
    if (host.gap == GapMode::seen && machine->restored_clock_->realtime == 0) {
        return fail(ErrorKind::unsupported, "the snapshot does not say when it was taken, so its guest cannot be shown the gap",
                    "restore it with --clock resume");
    }
    TRY(machine->load_vcpus(records));
    // All must be consumed: a record that nothing claims is a device that would silently be lost.
    TRY(records.finish());
    return machine;
}

Result<std::unique_ptr<Machine>> Machine::assemble(const kvm::System& system, const MachineConfig& config, GuestMemory memory,
                                                   RecordReader* records, const HostSetup& host) {
    kvm::Vm vm = TRY(kvm::Vm::create(system));
    // The constructor is private, so std::make_unique cannot.
    std::unique_ptr<Machine> machine(new Machine(system, config, std::move(memory), std::move(vm)));
    // Before the vCPUs: they are created with or without a LAPIC. Before the slots, too, a full irqchip would make each cost 6 ms;
    // the split one does not mind.
    TRY(machine->vm_.enable_split_irqchip(platform::kIoApicPins));
    TRY(machine->choose_tracking(host.dirty));  // before the vCPUs too: their rings are made with them
    TRY(machine->map_memory());
    machine->drain_limit_ = host.drain_limit;
    TRY(machine->build_devices(records, host.open_disk));
    TRY(machine->build_vcpus(host.repair_kernel_mode));
    machine->build_tracker();
    machine->msr_indices_ = order_msrs(TRY(system.msr_indices()));
    return machine;
}

Status Machine::choose_tracking(DirtyTracking wish) {
    const kvm::Capabilities& caps = system_.capabilities();
    const bool has_ring = caps.dirty_ring >= static_cast<int>(kvm::RingTracker::kEntries * sizeof(kvm_dirty_gfn));
    const bool has_log = (caps.manual_dirty_log & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0;
    if (wish == DirtyTracking::ring && !has_ring) {
        return fail(ErrorKind::unsupported, "this KVM has no dirty ring", "use --dirty log, or Linux 5.11 or newer");
    }
    if (wish == DirtyTracking::log && !has_log) {
        return fail(ErrorKind::unsupported, "this KVM has no manual dirty log", "use --dirty ring, or Linux 5.0 or newer");
    }
    // The log takes no memory until it is used; rings take theirs with each vCPU.
    if (has_log && wish != DirtyTracking::ring) {
        tracking_ = DirtyTracking::log;
        return vm_.enable_manual_dirty_log(system_);
    }
    if (has_ring) {
        tracking_ = DirtyTracking::ring;
        return vm_.enable_dirty_ring(system_, kvm::RingTracker::kEntries);
    }
    return {};
}

void Machine::build_tracker() {
    std::unique_ptr<DirtyTracker> tracker;
    if (tracking_ == DirtyTracking::log) {
        tracker = std::make_unique<kvm::LogTracker>(vm_);
    } else if (tracking_ == DirtyTracking::ring) {
        auto ring = std::make_unique<kvm::RingTracker>(vm_, vcpus_->vcpus(), memory_.blocks());
        ring_ = ring.get();
        tracker = std::move(ring);
    }
    if (tracker) {
        dirty_ = std::make_unique<DirtyFeed>(memory_, std::move(tracker));
    }
}

Status Machine::map_memory() {
    for (const MemoryBlock& block : memory_.blocks()) {
        TRY(vm_.add_slot(block.spec().base, block.host(), block.spec().size, name_of(block.spec().id)));
    }
    return {};
}

Status Machine::build_devices(RecordReader* records, const DiskOpener& open_disk) {
    if (config_.devices.virtio_devices() > 0) {
        loop_ = TRY(EventLoop::create());
    }
    DeviceHost host{.interrupts = nullptr,
                    .msi = *this,
                    .serial_output = console_,
                    .console_output = virtio_console_,
                    .events = *this,
                    .memory = memory_,
                    .loop = loop_.get(),
                    .open_disk = open_disk};
    std::size_t virtio = 0;
    for (const DeviceFactory& factory : device_factories()) {
        virtio += is_virtio(factory.kind) ? factory.count(config_.devices) : 0;
        for (std::uint32_t instance = 0; instance < factory.count(config_.devices); ++instance) {
            const StateRecord* record =
                records == nullptr ? nullptr : TRY(records->take(factory.kind, instance, factory.state_version));
            AttachedDevice attached = TRY(factory.build(host, config_.devices, instance, record));
            // The few that the machine itself talks to.
            if (auto* ioapic = dynamic_cast<IoApic*>(attached.device.get()); ioapic != nullptr) {
                ioapic_ = ioapic;
                host.interrupts = ioapic;
            }
            if (auto* serial = dynamic_cast<Serial*>(attached.device.get()); serial != nullptr) {
                serial_ = serial;
            }
            if (auto* test_port = dynamic_cast<TestPort*>(attached.device.get()); test_port != nullptr) {
                test_port_ = test_port;
            }
            if (auto* transport = dynamic_cast<virtio::Mmio*>(attached.device.get()); transport != nullptr) {
                if (auto* balloon = dynamic_cast<virtio::Balloon*>(&transport->device()); balloon != nullptr) {
                    balloon_transport_ = transport;
                    balloon_ = balloon;
                }
            }
            if (factory.kind == RecordKind::virtio_net) {
                net_transports_.push_back(dynamic_cast<virtio::Mmio*>(attached.device.get()));
            }
            if (factory.kind == RecordKind::virtio_console) {
                console_transport_ = dynamic_cast<virtio::Mmio*>(attached.device.get());
                console_device_ = dynamic_cast<virtio::Console*>(&console_transport_->device());
            }
            if (auto* pvpanic = dynamic_cast<Pvpanic*>(attached.device.get()); pvpanic != nullptr) {
                pvpanic_ = pvpanic;
            }
            if (auto* ged = dynamic_cast<Ged*>(attached.device.get()); ged != nullptr) {
                events_device_ = ged;
            }
            TRY(put_on_bus(attached, name_of(factory.kind)));
            devices_.push_back(std::move(attached));
        }
    }
    if (virtio != config_.devices.virtio_devices()) {
        return fail(ErrorKind::unsupported, "the configuration has devices that this version does not");
    }
    return {};
}

Status Machine::put_on_bus(const AttachedDevice& attached, std::string_view name) {
    for (const BusRange& range : attached.ranges) {
        Bus& bus = range.kind == BusRange::Kind::port ? ports_ : mmio_;
        TRY(bus.add(range.base, range.size, *range.device, std::string(name)));
    }
    // Without it the bus does the same, a return from the guest later.
    for (const Doorbell& bell : attached.doorbells) {
        if (system_.capabilities().ioeventfd != 0) {
            TRY(vm_.add_doorbell(Gpa{bell.address}, bell.size, bell.eventfd));
        }
    }
    return {};
}

Status Machine::build_vcpus(bool repair_kernel_mode) {
    std::vector<kvm::VcpuFd> vcpus;
    std::vector<std::unique_ptr<ExitRepair>> repairs;
    vcpus.reserve(config_.cpus);
    for (std::uint32_t index = 0; index < config_.cpus; ++index) {
        vcpus.push_back(TRY(vm_.create_vcpu(system_, index)));
        if (repair_kernel_mode) {
            repairs.push_back(TRY(emulate::repair_kernel_mode(system_, memory_)));
        }
    }
    VcpuEvents& events = *this;
    vcpus_ = std::make_unique<VcpuSet>(std::move(vcpus), ports_, mmio_, events, std::move(repairs));
    return {};
}

// Whether a guest that was shown `saved` can run here. KVM's supported table decides, but for hosts whose guests see more than
// that (no CPUID interception at user level): there a vCPU given the table reads back what its guest will really see.
Status Machine::check_features(const CpuidTable& saved) {
    const CpuidTable supported = TRY(system_.supported_cpuid());
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
            TRY(check_features(state.cpuid));  // all vCPUs of a machine show the same
            saved_tsc_khz_ = state.tsc_khz;
        }
        TRY(match_tsc_frequency(system_, vcpu, state.tsc_khz));
        TRY(apply_vcpu(system_, vcpu, state));
    }
    return {};
}

}  // namespace snapvm
