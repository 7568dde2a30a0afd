// SPDX-License-Identifier: Apache-2.0
// A machine's life: running, pausing, saving. assembly.cc builds a machine, ending.cc ends its run.
#include "vmm/machine/machine.h"

#include <algorithm>
#include <utility>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/machine/clock_state.h"
#include "vmm/memory/fault_service.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {
namespace {

// Intel SDM volume 3, "Local APIC Register Address Map": 256 bits in eight registers, 16 bytes
// apart.
constexpr std::size_t kLapicInService = 0x100;
constexpr std::size_t kLapicRequested = 0x200;

bool lapic_has(const kvm_lapic_state& lapic, std::size_t bits, std::uint8_t vector) {
    const auto byte = static_cast<std::uint8_t>(lapic.regs[bits + vector / 32 * 16U + vector % 32 / 8U]);
    return (byte >> vector % 8 & 1) != 0;
}

// Quiesces the devices before the vCPUs stop, so that a slow disk does not lengthen the pause.
class Quiesced {
public:
    static Result<Quiesced> of(Machine& machine) {
        TRY(machine.quiesce([] { return Status{}; }));
        return Quiesced(machine);
    }
    Quiesced(Quiesced&& other) noexcept : machine_(std::exchange(other.machine_, nullptr)) {}
    Quiesced& operator=(Quiesced&&) = delete;
    ~Quiesced() {
        if (machine_ != nullptr) {
            machine_->unquiesce();
        }
    }

private:
    explicit Quiesced(Machine& machine) : machine_(&machine) {}
    Machine* machine_;
};

}  // namespace

Machine::~Machine() {
    end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    stop_input();
    serial_.output().close();
    virtio_console_.output().close();
    memory_.end_faults();  // a thread that waits in a page fault could not be joined
    if (own_pause_.joinable()) {
        own_pause_.join();
    }
    if (vcpus_) {
        // Joined before the members that they use are destroyed, vcpus_ itself included.
        vcpus_->stop();
    }
    if (loop_) {
        loop_->stop();
    }
}

Machine::State Machine::state() const {
    const std::lock_guard control(control_);
    {
        const std::lock_guard events(events_);
        if (outcome_) {
            return State::ended;
        }
    }
    if (!started_) {
        // A restored machine that has not run yet is in the middle of the run that its snapshot was
        // taken from, so it is paused.
        return !paused_ ? State::running : restored_ ? State::paused : State::not_started;
    }
    return paused_ ? State::paused : State::running;
}

Status Machine::start_first_time() {
    if (restored_clock_) {
        TRY(set_guest_time());
        held_msrs_.clear();
        restored_clock_.reset();
    }
    if (std::exchange(restored_, false)) {
        for (const DeviceSet::Entry& device : devices_.all()) {
            TRY(device.attached.device->restored());
        }
        TRY(finish_lost_eois());
        for (kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
            // The guest was not told of the pause in which it was saved; only its new vCPUs can
            // tell it (KVM_KVMCLOCK_CTRL).
            TRY(vcpu.notify_paused());
        }
    }
    if (loop_) {
        TRY(loop_->start());
    }
    TRY(watch_for_own_pause());
    TRY(vcpus_->start());
    started_ = true;
    return {};
}

// Between a guest's EOI and the exit that reports it, the EOI is a request inside KVM that no ioctl
// reads. A snapshot from that time has an IOAPIC pin that waits for an EOI, while no LAPIC has the
// interrupt any more, and the pin would stay blocked. So such an interrupt counts as acknowledged.
Status Machine::finish_lost_eois() {
    for (const std::uint8_t vector : devices_.ioapic().awaiting_eoi()) {
        bool under_way = false;
        for (const kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
            const auto lapic = TRY(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC, "KVM_GET_LAPIC"));
            under_way =
                under_way || lapic_has(lapic, kLapicInService, vector) || lapic_has(lapic, kLapicRequested, vector);
        }
        if (!under_way) {
            devices_.ioapic().end_of_interrupt(vector);
        }
    }
    return {};
}

Status Machine::resume() {
    const std::lock_guard control(control_);
    {
        const std::lock_guard events(events_);
        if (outcome_) {
            return fail(ErrorKind::usage, "the machine has ended (" + std::string(outcome_->name()) + ")");
        }
        // Forgotten before the disks go on, since they may fail again at once.
        pause_wish_.reset();
        pause_reason_.reset();
    }
    for (const VirtioHandle<virtio::Blk>& disk : devices_.disks()) {
        disk.locked([](virtio::Blk& blk) { blk.go_on(); });
    }
    if (frozen_) {
        paused_ = false;
        return {};  // the thaw runs it
    }
    if (!started_) {
        if (Status started = start_first_time(); !started) {
            // Some vCPUs may have run, and threads that were stopped start no more.
            failed(started.error());
            return started;
        }
    } else {
        vcpus_->resume();
    }
    paused_ = false;
    thaw_devices();
    return {};
}

Status Machine::pause() {
    const Quiesced quiet = TRY(Quiesced::of(*this));
    TRY(check_disks_settled());
    const std::lock_guard control(control_);
    paused_ = true;
    if (started_) {
        vcpus_->pause();
    }
    return {};
}

Status Machine::quiesce(const std::function<Status()>& check_cancelled) {
    const auto deadline = std::chrono::steady_clock::now() + drain_limit_;
    {
        const std::lock_guard control(control_);
        ++quiesced_;
    }
    TRY(wait_for_disks(check_cancelled, deadline));
    for (const VirtioHandle<virtio::Blk>& disk : devices_.disks()) {
        disk.locked([](virtio::Blk& blk) { blk.settle(); });
    }
    return wait_for_disks(check_cancelled, deadline);
}

// A pause or a snapshot without the tables of an image would promise what the image does not have.
// The pause that a full disk asks for does without.
Status Machine::check_disks_settled() {
    if (wait_ended(std::chrono::steady_clock::now())) {
        return {};
    }
    for (const VirtioHandle<virtio::Blk>& disk : devices_.disks()) {
        Status settled;
        disk.locked([&](const virtio::Blk& blk) { settled = blk.settled(); });
        TRY(std::move(settled));
    }
    return {};
}

// Waits without a lock, since a disk may take long or never answer.
Status Machine::wait_for_disks(const std::function<Status()>& check_cancelled,
                               std::chrono::steady_clock::time_point deadline) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kSlice = std::chrono::milliseconds(10);
    while (loop_ && !loop_->quiesce(Clock::now() + kSlice) && !wait_ended(Clock::now())) {
        Status wish = check_cancelled();
        if (wish && Clock::now() >= deadline) {
            wish = fail(ErrorKind::busy,
                        "the guest's disks have not finished their requests within " +
                            std::to_string(drain_limit_.count()) + " ms",
                        "the guest runs on; try again when its disks answer");
        }
        if (!wish) {
            unquiesce();
            return wish;
        }
    }
    return {};
}

void Machine::unquiesce() {
    const std::lock_guard control(control_);
    --quiesced_;
    thaw_devices();
}

void Machine::thaw_devices() {
    if (loop_ && !paused_ && !frozen_ && quiesced_ == 0) {
        loop_->thaw();
    }
}

Result<std::chrono::steady_clock::time_point> Machine::freeze() {
    const Quiesced quiet = TRY(Quiesced::of(*this));
    TRY(check_disks_settled());
    const std::lock_guard control(control_);
    if (frozen_) {
        return fail(ErrorKind::busy, "a snapshot of this machine is being written already");
    }
    {
        const std::lock_guard events(events_);
        if (outcome_) {
            return fail(ErrorKind::usage, "the machine has ended (" + std::string(outcome_->name()) + ")");
        }
    }
    gate_.close();  // host input waits for the thaw
    frozen_ = true;
    const auto asked = std::chrono::steady_clock::now();
    if (started_) {
        vcpus_->pause();
    }
    bool ended = false;
    {
        // Completing the last exits can end the run. A machine saved after that would be restored
        // with its request to end lost.
        const std::lock_guard events(events_);
        ended = outcome_.has_value();
    }
    if (ended) {
        thaw_locked();
        return fail(ErrorKind::usage, "the machine has ended while it was being stopped");
    }
    return asked;
}

std::chrono::steady_clock::time_point Machine::thaw() {
    const auto let_go = std::chrono::steady_clock::now();
    {
        const std::lock_guard control(control_);
        if (!frozen_) {
            return let_go;
        }
        thaw_locked();
    }
    return std::max(let_go, vcpus_->wait_resumed());
}

void Machine::thaw_locked() {
    frozen_ = false;
    gate_.open();
    {
        const std::lock_guard events(events_);
        paused_ = paused_ || outcome_.has_value();
    }
    if (paused_) {
        return;
    }
    if (started_) {
        vcpus_->resume();
    } else if (Status status = start_first_time(); !status) {
        failed(std::move(status).error());
    }
    thaw_devices();
}

Result<SavedMachine> Machine::save() const {
    SavedMachine saved;
    saved.config = config();
    // Clock, vCPUs, devices: the order of a restore. Nothing runs, so the order of reading is free.
    kvm_clock_data clock{};
    if (restored_clock_) {
        clock = *restored_clock_;
    } else {
        clock = TRY(shell_.vm().clock());
        if ((clock.flags & KVM_CLOCK_REALTIME) == 0) {
            clock.realtime = host_realtime();  // from it --clock continue computes the gap
        }
    }
    saved.records.push_back(encode_clock(clock));
    for (const kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
        VcpuStateV1 state = TRY(capture_vcpu(shell_.system(), vcpu, shell_.msr_indices()));
        if (!held_msrs_.empty()) {
            put_msrs(state, held_msrs_[vcpu.index()]);
        }
        saved.records.push_back({RecordKind::vcpu, VcpuStateV1::kVersion, vcpu.index(), state.encode()});
    }
    for (const DeviceSet::Entry& device : devices_.all()) {
        saved.records.push_back(device.attached.device->save());
    }
    return saved;
}

void Machine::resize_console(std::uint16_t columns, std::uint16_t rows) {
    if (const auto console = devices_.console()) {
        gate_.pass_or_defer(InputGate::Deferred::console_size,
                            [=] { console.locked([&](virtio::Console& device) { device.resize(columns, rows); }); });
    }
}

bool Machine::press_power_button(std::chrono::steady_clock::time_point deadline) {
    bool heard = false;
    return gate_.pass(deadline, [&] { heard = devices_.events().press_power_button(); }) && heard;
}

MachineConfig Machine::config() const {
    const std::lock_guard events(events_);
    return config_;
}

std::vector<std::uint64_t> Machine::disk_bytes() const {
    std::vector<std::uint64_t> bytes;
    for (const VirtioHandle<virtio::Blk>& disk : devices_.disks()) {
        bytes.push_back(disk.unlocked().bytes());
    }
    return bytes;
}

Result<std::uint64_t> Machine::resize_disk(const std::string& id, std::optional<std::uint64_t> bytes,
                                           std::chrono::steady_clock::time_point deadline) {
    const auto& disk = devices_.disks()[TRY(find_disk(id))];
    Status resized;
    if (!gate_.pass(deadline, [&] { resized = disk.locked([&](virtio::Blk& blk) { return blk.resize(bytes); }); })) {
        return fail(ErrorKind::busy, "a snapshot of this machine is being written", "try again when it has ended");
    }
    TRY(resized);
    return disk.unlocked().bytes();
}

MachineStats Machine::stats() const {
    const TestPortStateV1 test = devices_.test_port().state();
    std::vector<NetworkStats> networks;
    for (const VirtioHandle<virtio::Net>& net : devices_.nets()) {
        networks.push_back(net.locked([&](virtio::Net& device) -> NetworkStats {
            return {.id = config_.devices.nets[networks.size()].id,
                    .link_up = device.link_up(),
                    .counters = device.counters().read()};
        }));
    }
    std::vector<PartCounters> counters = counters_of(devices_.all());
    counters.push_back({"vcpus", vcpus_->counters().read()});
    counters.push_back({"page-faults", memory_.faults().counters().read()});
    return {.exits = vcpus_->exits(),
            .ready = test.ready,
            .ready_value = test.ready_value,
            .mark = test.mark,
            .marks = test.marks,
            .crash_loaded = devices_.pvpanic().has_crash_kernel(),
            .networks = std::move(networks),
            .counters = std::move(counters)};
}

bool Machine::had_driver() const {
    return std::ranges::any_of(devices_.transports(), [](const virtio::Mmio* one) { return one->had_driver(); });
}

std::optional<bool> Machine::tsc_was_set() const {
    const std::lock_guard control(control_);
    return tsc_was_set_;
}

void Machine::ready(std::uint32_t /*value*/) {
    {
        const std::lock_guard events(events_);
        ready_ = true;
    }
    event_.notify_all();
}

void Machine::mark(std::uint32_t /*value*/) { event_.notify_all(); }

void Machine::deliver(const MsiMessage& message) {
    if (Status sent = shell_.vm().signal_msi({message.address, message.data}); !sent) {
        // A guest can program a message that KVM refuses (a reserved delivery mode). It is lost, as
        // on hardware.
        return;
    }
}

void Machine::set_routes(std::span<const MsiMessage> routes) {
    std::vector<kvm::Msi> messages;
    messages.reserve(routes.size());
    for (const MsiMessage& route : routes) {
        messages.push_back({route.address, route.data});
    }
    if (Status status = shell_.vm().set_msi_routes(messages); !status) {
        failed(std::move(status).error());
    }
}

void Machine::end_of_interrupt(std::uint8_t vector) { devices_.ioapic().end_of_interrupt(vector); }

void Machine::dirty_ring_full() {
    if (Status room = ring_->make_room(); !room) {
        failed(std::move(room).error());
    }
}

}  // namespace snapvm
