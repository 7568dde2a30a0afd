// SPDX-License-Identifier: Apache-2.0
// A machine: memory, vCPUs, interrupt controller and devices, built from a configuration or from a
// saved state.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "devices/event_loop/event_loop.h"
#include "devices/registry.h"
#include "vmm/base/counters.h"
#include "vmm/base/error.h"
#include "vmm/boot/loader.h"
#include "vmm/bus/bus.h"
#include "vmm/config/machine_config.h"
#include "vmm/config/saved_state.h"
#include "vmm/emulate/kernel_mode_repair.h"
#include "vmm/kvm/ring_tracker.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/balloon.h"
#include "vmm/machine/device_set.h"
#include "vmm/machine/input_gate.h"
#include "vmm/machine/line.h"
#include "vmm/machine/outcome.h"
#include "vmm/machine/shell.h"
#include "vmm/memory/dirty_feed.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/vcpu/cpuid.h"
#include "vmm/vcpu/vcpu_set.h"

namespace snapvm {

namespace disk {
class NewLayer;
}  // namespace disk

/// Whether a restored guest sees the time since its snapshot (`--clock resume|continue`).
enum class GapMode : std::uint8_t { hidden, seen };

/// The default of HostSetup::drain_limit.
inline constexpr std::chrono::seconds kDrainLimit{30};

/// The host's side of a machine, which its snapshots do not keep.
struct HostSetup {
    DirtyTracking dirty = DirtyTracking::automatic;
    GapMode gap = GapMode::hidden;
    Openers openers = {};
    /// How long a pause or snapshot waits for in-flight disk requests. It then fails with busy; the
    /// guest keeps running.
    std::chrono::milliseconds drain_limit{kDrainLimit};
    /// Whether vmm/emulate carries out the instructions that this host's KVM lacks in kernel mode.
    bool repair_kernel_mode = emulate::kernel_mode_is_emulated();
};

/// Numbers of one network interface.
struct NetworkStats {
    std::string id;
    bool link_up = false;
    std::vector<Counters::Value> counters;
};

/// The numbers that `stats` shows.
struct MachineStats {
    std::uint64_t exits = 0;
    bool ready = false;
    std::uint32_t ready_value = 0;
    std::uint32_t mark = 0;
    std::uint64_t marks = 0;
    bool crash_loaded = false;  ///< the guest has panicked, and its crash kernel runs
    std::vector<NetworkStats> networks;
    std::vector<PartCounters> counters;  ///< of all parts but network interfaces
};

/// A layer that was taken of a disk.
struct LayerTaken {
    std::string disk;    ///< its id
    std::string tag;
    std::string frozen;  ///< the layer's path
    std::string active;  ///< where the disk continues, of format qcow2
    std::uint64_t held_us = 0;  ///< how long the disk began no requests
};

/// One machine. It is built paused and has never run; `start` or `resume` runs it. All public
/// functions may be called from any thread except a vCPU's.
///
/// Lock order: Machine::control_; the input gate's lock; a device's lock; a block's DiscardGate;
/// the locks of the interrupt controller, the console and the event loop, none of which is taken
/// under another of these three; then Machine::events_ or VcpuSet::mutex_. The last two are never
/// held together, and no other lock is taken under them. The interrupt controller's lock reaches
/// them if KVM refuses routes, which ends the run (set_routes).
class Machine final : private GuestEvents, private PauseRequests, private MsiSink, private VcpuEvents {
public:
    enum class State : std::uint8_t { not_started, running, paused, ended };

    /// Builds a machine with a guest loaded. The bytes of `source` are not needed afterwards.
    static Result<std::unique_ptr<Machine>> create(const kvm::System& system, const MachineConfig& config,
                                                   const BootSource& source, const HostSetup& host = {});
    /// Builds the saved machine, with its memory. Fails with unsupported if this host cannot run
    /// it, and with invalid if its records are malformed, missing, or claimed by nothing.
    static Result<std::unique_ptr<Machine>> restore(const kvm::System& system, const SavedMachine& saved,
                                                    GuestMemory memory, const HostSetup& host = {});
    /// Does the same in a shell that was made ahead, whose addresses `memory` is mapped over. Fails
    /// with usage if the shell does not fit the machine.
    static Result<std::unique_ptr<Machine>> restore(Shell shell, const SavedMachine& saved, GuestMemory memory,
                                                    const HostSetup& host = {});
    ~Machine() override;

    /// Starts the machine, or continues after `pause`. If it is frozen, it runs from the thaw on.
    /// Fails with usage if its run has ended.
    Status resume();
    /// Returns when no vCPU runs. May be called again. Fails like quiesce.
    Status pause();
    [[nodiscard]] State state() const;
    /// Returns why the machine has paused itself, and what to do: a disk cannot write
    /// (WriteErrors::stop). Returns nothing once it was resumed, which tries the writes again.
    [[nodiscard]] std::optional<Error> pause_reason() const;
    /// Has `tell` called whenever the machine has paused itself: on a thread of the machine, which
    /// it must not destroy, or at once if the machine is paused so already. An empty one ends that.
    void on_own_pause(const std::function<void(const Error& why)>& tell);

    /// For snapshots; independent of pause and resume. Keeps the devices from beginning new
    /// requests, and returns when those in flight have ended and the tables of disk images are
    /// durable, or the run has ended. The vCPUs keep running. Calls `check_cancelled` every 10 ms
    /// and fails with its error. Fails with busy if a disk takes longer than
    /// HostSetup::drain_limit. After a failure nothing is held. No other call waits meanwhile.
    /// Calls nest: devices begin again after the same number of `unquiesce`.
    Status quiesce(const std::function<Status()>& check_cancelled);
    void unquiesce();
    /// Quiesces the devices, stops all vCPUs and holds host input until thaw(). Returns when the
    /// first vCPU was asked to stop. Fails with busy if the machine is frozen, with usage if its
    /// run has ended, and like quiesce; it then runs as before.
    Result<std::chrono::steady_clock::time_point> freeze();
    /// Undoes freeze(). If the machine is to run, waits until its last vCPU runs again, and returns
    /// when that was. The guest does not wait for the calling thread. Does nothing if the machine
    /// is not frozen.
    std::chrono::steady_clock::time_point thaw();
    /// Returns configuration and state records. The machine must be frozen, or never have run.
    Result<SavedMachine> save() const;
    [[nodiscard]] const GuestMemory& memory() const { return memory_; }
    [[nodiscard]] GuestMemory& memory() { return memory_; }
    /// Returns the configuration of now: a disk's path and format change with a layer of it.
    [[nodiscard]] MachineConfig config() const;
    /// Returns the sizes of the disks, in the configuration's order.
    [[nodiscard]] std::vector<std::uint64_t> disk_bytes() const;
    /// Makes a disk larger and tells the guest (Disk::resize). Waits while the machine is frozen.
    /// Returns the new size. Fails with not_found if there is no such disk, with busy if the
    /// machine is frozen until the deadline, and as Disk::resize() does.
    Result<std::uint64_t> resize_disk(const std::string& id, std::optional<std::uint64_t> bytes,
                                      std::chrono::steady_clock::time_point deadline);
    /// Returns the record of written pages, or null if this host's KVM cannot track writes. One
    /// thread at a time uses it.
    [[nodiscard]] DirtyFeed* dirty() { return dirty_.get(); }

    /// Takes a layer of a disk (disk/image/new_layer.h) while the vCPUs run. The disk begins no new
    /// requests meanwhile, for some milliseconds. `into` is the overlay's path or empty. Fails with
    /// not_found if there is no such disk, with usage if it is read-only, like NewLayer, and like
    /// quiesce; the disk is then as before. One thread at a time, not while the machine is frozen.
    Result<LayerTaken> take_layer(const std::string& id, const std::string& tag, const std::string& into);

    /// Ends the run from outside. Does nothing if it has ended.
    void end(Outcome outcome);
    /// Waits until the run has ended and returns how. Returns nothing if the deadline passes first.
    std::optional<Outcome> wait_ended(std::chrono::steady_clock::time_point deadline) const;
    /// Waits until the guest has reported READY and returns true. Returns false if the deadline
    /// passes first, or the run ends without it.
    bool wait_ready(std::chrono::steady_clock::time_point deadline) const;

    /// Waits until the guest was first seen to have executed an instruction in this process, and
    /// returns when. Returns nothing at the deadline.
    std::optional<std::chrono::steady_clock::time_point> wait_first_run(
        std::chrono::steady_clock::time_point deadline) {
        return vcpus_->wait_first_run(deadline);
    }

    [[nodiscard]] Line& serial() { return serial_; }
    [[nodiscard]] const Line& serial() const { return serial_; }
    [[nodiscard]] Line& virtio_console() { return virtio_console_; }
    [[nodiscard]] const Line& virtio_console() const { return virtio_console_; }
    /// Sets the virtio console's size in characters and tells the guest. If the machine is frozen,
    /// the thaw does it.
    void resize_console(std::uint16_t columns, std::uint16_t rows);
    /// Ends input on all lines: waiting calls of send() return, and so do later ones.
    void stop_input() { gate_.end(); }
    /// Presses the machine's power button. Waits while the machine is frozen. Returns false if that
    /// lasts until the deadline, or if the guest does not listen to the button; a guest that
    /// listens later finds it pressed.
    bool press_power_button(std::chrono::steady_clock::time_point deadline);

    [[nodiscard]] MachineStats stats() const;
    /// Returns whether a guest's driver has started one of the virtio devices since the machine was
    /// created or restored.
    [[nodiscard]] bool had_driver() const;

    /// Returns the balloon's controls. They exist without a balloon, too; their functions then fail
    /// with usage.
    [[nodiscard]] MachineBalloon& balloon() { return *balloon_; }

    /// Of a restored machine that has run, returns whether KVM took its TSC (read back); if not,
    /// the guest has the host's. Returns nothing before that.
    [[nodiscard]] std::optional<bool> tsc_was_set() const;

private:
    Machine(Shell shell, MachineConfig config, GuestMemory memory);
    static Result<std::unique_ptr<Machine>> assemble(Shell shell, const MachineConfig& config, GuestMemory memory,
                                                     RecordReader* records, const HostSetup& host);
    static Result<std::unique_ptr<Machine>> adopt(Shell shell, const SavedMachine& saved, GuestMemory memory,
                                                  const HostSetup& host);
    void build_tracker();
    Status build_devices(RecordReader* records, const Openers& openers);
    void connect_lines();
    Status put_on_bus(const DeviceSet::Entry& device);
    Status build_vcpus(bool repair_kernel_mode);
    Status load_vcpus(RecordReader& records);
    Status check_features(const CpuidTable& saved);
    Status start_first_time();
    Status check_disks_settled();
    Status wait_for_disks(const std::function<Status()>& check_cancelled,
                          std::chrono::steady_clock::time_point deadline);
    Result<std::size_t> find_disk(const std::string& id) const;
    Status switch_disk(std::size_t index, disk::NewLayer& layer, LayerTaken& taken);
    void thaw_devices();  // control_ is held
    Status watch_for_own_pause();
    void pause_on_request();
    void pause_for_wish();
    Status set_guest_time();
    Status finish_lost_eois();
    void thaw_locked();
    void end_with_report(Outcome outcome, const std::string& reason, const kvm::VcpuFd& vcpu, int run_error);

    // GuestEvents
    void request(GuestRequest what, std::uint8_t exit_code) override;
    void ready(std::uint32_t value) override;
    void mark(std::uint32_t value) override;
    // PauseRequests
    void request_pause(const Error& why) override;
    // MsiSink
    void deliver(const MsiMessage& message) override;
    void set_routes(std::span<const MsiMessage> routes) override;
    // VcpuEvents
    void end_of_interrupt(std::uint8_t vector) override;
    void triple_fault(const kvm::VcpuFd& vcpu) override;
    void vcpu_failed(const kvm::VcpuFd& vcpu, Error error) override;
    void dirty_ring_full() override;
    void failed(Error error) override;

    MachineConfig config_;
    // Members are destroyed from the bottom up: the threads (vcpus_) first, then the devices, then
    // KVM's machine, and last the memory that it maps.
    GuestMemory memory_;
    Shell shell_;
    /// The saved clock. It is set when the vCPUs first run; until then `save` returns it.
    std::optional<kvm_clock_data> restored_clock_;
    std::vector<std::vector<kvm_msr_entry>> held_msrs_;  ///< likewise, for each vCPU (take_late_msrs)
    std::uint32_t saved_tsc_khz_ = 0;
    GapMode gap_ = GapMode::hidden;
    std::optional<bool> tsc_was_set_;
    std::chrono::milliseconds drain_limit_{};
    bool restored_ = false;
    InputGate gate_;
    Line serial_{gate_};
    Line virtio_console_{gate_};
    std::unique_ptr<EventLoop> loop_;  ///< of the virtio devices; null if there are none
    DeviceSet devices_;
    std::optional<MachineBalloon> balloon_;
    Bus ports_{kPortLimit};
    Bus mmio_{~0ULL};

    /// Held during each change of state. Guards the four below and tsc_was_set_.
    mutable std::mutex control_;
    bool started_ = false;
    bool paused_ = true;
    bool frozen_ = false;
    unsigned quiesced_ = 0;  ///< how many quiesce() calls hold the devices

    mutable std::mutex events_;  ///< guards the five below, and the disks in config_
    mutable std::condition_variable event_;
    std::optional<Outcome> outcome_;
    bool ready_ = false;
    std::optional<Error> pause_wish_;  ///< of a device; until the next resume
    std::optional<Error> pause_reason_;  ///< the wish that the machine is paused for
    std::function<void(const Error&)> tell_pause_;

    std::unique_ptr<VcpuSet> vcpus_;
    /// Pauses the machine when a device wishes it. The event loop's thread cannot, since a pause
    /// waits for that. Not there unless a disk has WriteErrors::stop.
    std::thread own_pause_;

    kvm::RingTracker* ring_ = nullptr;
    std::unique_ptr<DirtyFeed> dirty_;
};

}  // namespace snapvm
