// SPDX-License-Identifier: Apache-2.0
// The life of a machine: running, pausing, saving. How one is put together is in assembly.cc, how its run ends in ending.cc.
#include "vmm/machine/machine.h"

#include <algorithm>
#include <utility>

#include "devices/ged/ged.h"
#include "devices/ioapic/ioapic.h"
#include "devices/pvpanic/pvpanic.h"
#include "devices/serial/serial.h"
#include "devices/test_port/test_port.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/net/net.h"
#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/machine/clock_state.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {
namespace {

// Intel SDM volume 3, "Local APIC Register Address Map": 256 bits in eight registers, 16 bytes apart.
constexpr std::size_t kLapicInService = 0x100;
constexpr std::size_t kLapicRequested = 0x200;

bool lapic_has(const kvm_lapic_state& lapic, std::size_t bits, std::uint8_t vector) {
    const auto byte = static_cast<std::uint8_t>(lapic.regs[bits + vector / 32 * 16U + vector % 32 / 8U]);
    return (byte >> vector % 8 & 1) != 0;
}

// Devices come to rest before the vCPUs stop: a slow disk lengthens no pause (design.md, "Taking it live").
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
    console_.close();
    virtio_console_.close();
    if (vcpus_) {
        // Joined while everything they use is still there, vcpus_ itself included.
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
        // A restored machine that has not run yet is where its snapshot was taken: in the middle of a run.
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
        for (const AttachedDevice& attached : devices_) {
            TRY(attached.device->restored());
        }
        TRY(finish_lost_eois());
        for (kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
            // Of the pause that the machine was saved in only its new vCPUs can tell the guest (traps.md: no KVM_KVMCLOCK_CTRL).
            TRY(vcpu.notify_paused());
        }
    }
    if (loop_) {
        TRY(loop_->start());
    }
    TRY(vcpus_->start());
    started_ = true;
    return {};
}

// Between a guest's EOI and the exit that tells us of it, the EOI is a request inside KVM that no ioctl reads out: a snapshot then has
// an IOAPIC that waits for what no LAPIC still has to do, and the pin would be dead. So such an interrupt counts as acknowledged.
Status Machine::finish_lost_eois() {
    for (const std::uint8_t vector : ioapic_->awaiting_eoi()) {
        bool under_way = false;
        for (const kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
            const auto lapic = TRY(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC, "KVM_GET_LAPIC"));
            under_way = under_way || lapic_has(lapic, kLapicInService, vector) || lapic_has(lapic, kLapicRequested, vector);
        }
        if (!under_way) {
            ioapic_->end_of_interrupt(vector);
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
    }
    if (frozen_) {
        paused_ = false;
        return {};  // thaw lets it go
    }
    if (!started_) {
        TRY(start_first_time());
    } else {
        vcpus_->resume();
    }
    paused_ = false;
    let_devices_begin();
    return {};
}

Status Machine::pause() {
    const Quiesced quiet = TRY(Quiesced::of(*this));
    const std::lock_guard control(control_);
    paused_ = true;
    if (started_) {
        vcpus_->pause();
    }
    return {};
}

// A disk may take its time, or never answer: nobody waits for that with a lock held.
Status Machine::quiesce(const std::function<Status()>& go_on) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kSlice = std::chrono::milliseconds(10);
    const auto deadline = Clock::now() + drain_limit_;
    {
        const std::lock_guard control(control_);
        ++quiesced_;
    }
    while (loop_ && !loop_->hold(Clock::now() + kSlice) && !wait_ended(Clock::now())) {
        Status wish = go_on();
        if (wish && Clock::now() >= deadline) {
            wish = fail(ErrorKind::busy,
                        "the guest's disks have not done in " + std::to_string(drain_limit_.count()) + " ms what they had begun",
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
    let_devices_begin();
}

void Machine::let_devices_begin() {
    if (loop_ && !paused_ && !frozen_ && quiesced_ == 0) {
        loop_->release();
    }
}

Result<std::chrono::steady_clock::time_point> Machine::freeze() {
    const Quiesced quiet = TRY(Quiesced::of(*this));
    const std::lock_guard control(control_);
    if (frozen_) {
        return fail(ErrorKind::busy, "the machine is being snapshotted already");
    }
    {
        const std::lock_guard events(events_);
        if (outcome_) {
            return fail(ErrorKind::usage, "the machine has ended (" + std::string(outcome_->name()) + ")");
        }
    }
    {
        // Waits for bytes on their way in; later ones wait for the thaw.
        const std::lock_guard input(input_);
        input_held_ = true;
    }
    frozen_ = true;
    const auto asked = std::chrono::steady_clock::now();
    if (started_) {
        vcpus_->pause();
    }
    bool ended = false;
    {
        // Completing the last exits can end the run. Saved after that, the machine would come back as one that asked in vain.
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
    {
        const std::lock_guard input(input_);
        input_held_ = false;
        if (std::exchange(output_waits_, false)) {
            serial_->output_ready();
        }
        if (const auto size = std::exchange(resize_waits_, std::nullopt)) {
            console_transport_->locked([&] { console_device_->resize(size->first, size->second); });
        }
        if (std::exchange(give_back_waits_, false)) {
            balloon_transport_->locked([this] { balloon_->give_back(); });
        }
    }
    input_changed_.notify_all();
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
    let_devices_begin();
}

Result<SavedMachine> Machine::save() const {
    SavedMachine saved;
    saved.config = config_;
    // Clock, vCPUs, devices: the order does not matter here, since all stand still; it is the order of restoring.
    kvm_clock_data clock{};
    if (restored_clock_) {
        clock = *restored_clock_;
    } else {
        clock = TRY(vm_.clock());
        if ((clock.flags & KVM_CLOCK_REALTIME) == 0) {
            clock.realtime = host_realtime();  // by which --clock continue knows the gap
        }
    }
    saved.records.push_back(encode_clock(clock));
    for (const kvm::VcpuFd& vcpu : vcpus_->vcpus()) {
        VcpuStateV1 state = TRY(capture_vcpu(system_, vcpu, msr_indices_));
        if (!held_msrs_.empty()) {
            put_msrs(state, held_msrs_[vcpu.index()]);
        }
        saved.records.push_back({RecordKind::vcpu, VcpuStateV1::kVersion, vcpu.index(), state.encode()});
    }
    for (const AttachedDevice& attached : devices_) {
        saved.records.push_back(attached.device->save());
    }
    return saved;
}

void Machine::stop_input() {
    {
        const std::lock_guard input(input_);
        input_over_ = true;
    }
    input_changed_.notify_all();
}

std::size_t Machine::send_input(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline) {
    return feed(bytes, deadline, [this](std::span<const std::uint8_t> part) { return serial_->receive(part); });
}

std::size_t Machine::send_console_input(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline) {
    if (console_device_ == nullptr) {
        return 0;
    }
    return feed(bytes, deadline, [this](std::span<const std::uint8_t> part) {
        return console_transport_->locked([&] { return console_device_->receive(part); });
    });
}

void Machine::resize_console(std::uint16_t columns, std::uint16_t rows) {
    const std::lock_guard input(input_);
    if (console_device_ == nullptr) {
        return;
    }
    if (input_held_) {
        resize_waits_ = {columns, rows};
    } else {
        console_transport_->locked([&] { console_device_->resize(columns, rows); });
    }
}

// It only asks for the device to be called, which the loop does not do while it is held.
void Machine::console_output_ready() {
    if (console_device_ != nullptr) {
        console_device_->output_ready();
    }
}

std::size_t Machine::feed(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline,
                          const std::function<std::size_t(std::span<const std::uint8_t>)>& receive) {
    // The guest empties the FIFO when it likes; people and scripts type slowly, so a poll is enough.
    constexpr auto kPoll = std::chrono::milliseconds(1);
    const std::size_t wanted = bytes.size();
    std::unique_lock input(input_);
    while (!bytes.empty()) {
        const bool open = input_changed_.wait_until(input, deadline, [this] { return !input_held_ || input_over_; });
        if (!open || input_over_) {
            break;
        }
        const std::size_t taken = receive(bytes);
        bytes = bytes.subspan(taken);
        if (taken == 0) {
            if (std::chrono::steady_clock::now() >= deadline) {
                break;
            }
            input_changed_.wait_for(input, kPoll);
        }
    }
    return wanted - bytes.size();
}

bool Machine::press_power_button(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock input(input_);
    return input_changed_.wait_until(input, deadline, [this] { return !input_held_; }) && events_device_->press_power_button();
}

void Machine::output_ready() {
    const std::lock_guard input(input_);
    // Its interrupt would reach the LAPIC after that was saved, and the byte's going out the port before that is: a hung console.
    if (input_held_) {
        output_waits_ = true;
    } else {
        serial_->output_ready();
    }
}

MachineStats Machine::stats() const {
    const TestPortStateV1 test = test_port_->state();
    std::vector<NetworkStats> networks;
    for (virtio::Mmio* transport : net_transports_) {
        const auto& net = dynamic_cast<virtio::Net&>(transport->device());
        networks.push_back(transport->locked([&]() -> NetworkStats {
            return {.id = config_.devices.nets[networks.size()].id, .link_up = net.link_up(), .counters = net.counters()};
        }));
    }
    return {.exits = vcpus_->exits(),
            .ready = test.ready,
            .ready_value = test.ready_value,
            .mark = test.mark,
            .marks = test.marks,
            .crash_loaded = pvpanic_->has_crash_kernel(),
            .networks = std::move(networks)};
}

bool Machine::had_driver() const {
    return std::ranges::any_of(devices_, [](const AttachedDevice& attached) {
        const auto* transport = dynamic_cast<const virtio::Mmio*>(attached.device.get());
        return transport != nullptr && transport->had_driver();
    });
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
    if (Status sent = vm_.signal_msi({message.address, message.data}); !sent) {
        // A guest can program a message that KVM refuses (a reserved delivery mode); on hardware it is lost too.
        return;
    }
}

void Machine::set_routes(std::span<const MsiMessage> routes) {
    std::vector<kvm::Msi> messages;
    messages.reserve(routes.size());
    for (const MsiMessage& route : routes) {
        messages.push_back({route.address, route.data});
    }
    if (Status status = vm_.set_msi_routes(messages); !status) {
        failed(std::move(status).error());
    }
}

void Machine::end_of_interrupt(std::uint8_t vector) { ioapic_->end_of_interrupt(vector); }

void Machine::dirty_ring_full() {
    if (Status room = ring_->make_room(); !room) {
        failed(std::move(room).error());
    }
}

}  // namespace snapvm
