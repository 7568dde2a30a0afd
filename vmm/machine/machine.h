// SPDX-License-Identifier: Apache-2.0
// A machine: memory, vCPUs, interrupt controller and devices put together, from a configuration or, as readily, from a saved state.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "devices/event_loop/event_loop.h"
#include "devices/registry.h"
#include "devices/virtio/net/counters.h"
#include "vmm/base/error.h"
#include "vmm/boot/loader.h"
#include "vmm/bus/bus.h"
#include "vmm/emulate/kernel_mode_repair.h"
#include "vmm/kvm/ring_tracker.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/config.h"
#include "vmm/machine/console.h"
#include "vmm/machine/outcome.h"
#include "vmm/machine/saved_state.h"
#include "vmm/memory/dirty_feed.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/vcpu/cpuid.h"
#include "vmm/vcpu/vcpu_set.h"

namespace snapvm {

class Serial;
class TestPort;
class IoApic;
class Ged;
class Pvpanic;
namespace virtio {
class Balloon;
class Console;
class Mmio;
struct BalloonStatistics;
}  // namespace virtio

/// How guest writes are tracked when somebody asks for it (`--dirty`). A machine has one or the other, chosen before its first vCPU.
/// automatic: the log (vmm/DECISIONS.md, "Dirty log or ring").
enum class DirtyTracking : std::uint8_t { automatic, log, ring };

/// Whether a restored guest sees the time that has passed since its snapshot (`--clock resume|continue`).
enum class GapMode : std::uint8_t { hidden, seen };

/// HostSetup::drain_limit, where nobody says otherwise.
inline constexpr std::chrono::seconds kDrainLimit{30};

/// What a machine does not keep in its snapshots: the host's side.
struct HostSetup {
    DirtyTracking dirty = DirtyTracking::automatic;
    GapMode gap = GapMode::hidden;
    /// How its disks are opened; null: as files and block devices (open_disk).
    DiskOpener open_disk = {};
    /// So long a pause, or a snapshot, waits for what the disks have begun. Then it fails, and the guest has not noticed.
    std::chrono::milliseconds drain_limit{kDrainLimit};
    /// Whether what this host's KVM leaves undone in kernel mode is made up for (vmm/emulate).
    bool repair_kernel_mode = emulate::kernel_mode_is_emulated();
};

/// One of its network interfaces.
struct NetworkStats {
    std::string id;
    bool link_up = false;
    virtio::NetCounters counters;
};

/// Numbers that `stats` shows.
struct MachineStats {
    std::uint64_t exits = 0;
    bool ready = false;
    std::uint32_t ready_value = 0;
    std::uint32_t mark = 0;
    std::uint64_t marks = 0;
    bool crash_loaded = false;  ///< the guest has panicked, and its crash kernel runs
    std::vector<NetworkStats> networks;
};

/// A balloon, as the host and as the guest sees it.
struct BalloonStatus {
    std::uint64_t target_bytes = 0;
    std::uint64_t actual_bytes = 0;  ///< what the guest says it holds
    std::uint16_t polling_seconds = 0;  ///< how often the guest is asked for statistics; 0: when somebody wants to know
};

/// One machine. Built paused and never run; `start` or `resume` runs it. All public functions may be called from any thread but a vCPU's.
///
/// Lock order: Machine::control_, Machine::input_, a device's lock, the interrupt controller's, the console's. Machine::events_ is
/// innermost and is never held across a call.
class Machine final : private GuestEvents, private MsiSink, private VcpuEvents {
public:
    enum class State : std::uint8_t { not_started, running, paused, ended };

    /// A fresh machine with a guest loaded. `source`'s bytes are not needed afterwards.
    static Result<std::unique_ptr<Machine>> create(const kvm::System& system, const MachineConfig& config, const BootSource& source,
                                                   const HostSetup& host = {});
    /// The machine that was saved, with its memory. Refuses what this host cannot run and records that nothing claims.
    static Result<std::unique_ptr<Machine>> restore(const kvm::System& system, const SavedMachine& saved, GuestMemory memory,
                                                    const HostSetup& host = {});
    ~Machine() override;

    /// Starts running, or goes on after `pause`. An ended machine is an error.
    Status resume();
    /// Returns when no vCPU runs. Idempotent. busy: see quiesce.
    Status pause();
    [[nodiscard]] State state() const;

    /// For snapshots, independent of pause and resume. Devices begin nothing new from here on, and it returns when what they have begun has
    /// ended, or the run has; the vCPUs run on. Asks `go_on` now and then while it waits, and gives up with its error; busy when a disk takes
    /// longer than HostSetup::drain_limit. Whoever else asks for something of the machine does not wait. As many `unquiesce` undo it.
    Status quiesce(const std::function<Status()>& go_on);
    void unquiesce();
    /// Stands still, nothing changes from inside or outside, until `thaw`; quiesces first. When the first vCPU was asked to stop. busy: it is
    /// frozen already, or see quiesce.
    Result<std::chrono::steady_clock::time_point> freeze();
    /// When the last vCPU was running again, where they are to run; waits for that. The guest does not wait for this thread.
    std::chrono::steady_clock::time_point thaw();
    /// Configuration and state records; the machine must be frozen or never have run.
    Result<SavedMachine> save() const;
    [[nodiscard]] const GuestMemory& memory() const { return memory_; }
    [[nodiscard]] GuestMemory& memory() { return memory_; }
    [[nodiscard]] const MachineConfig& config() const { return config_; }
    /// Which pages are written; null where this host's KVM can track none. One thread at a time.
    [[nodiscard]] DirtyFeed* dirty() { return dirty_.get(); }

    /// Ends the run from outside, if it has not ended yet.
    void end(Outcome outcome);
    /// How the run ended, once it has; nothing when the deadline passes first.
    std::optional<Outcome> wait_ended(std::chrono::steady_clock::time_point deadline) const;
    /// True when the guest has said READY; false when the deadline passes or the machine ends before.
    bool wait_ready(std::chrono::steady_clock::time_point deadline) const;

    /// When the guest was first seen to have executed an instruction in this process.
    std::optional<std::chrono::steady_clock::time_point> wait_first_run(std::chrono::steady_clock::time_point deadline) {
        return vcpus_->wait_first_run(deadline);
    }

    [[nodiscard]] Console& console() { return console_; }
    /// What the virtio console's port says; silent where the machine has none.
    [[nodiscard]] Console& virtio_console() { return virtio_console_; }
    /// Bytes for the guest's serial port; waits while its FIFO is full or the machine is frozen. One caller at a time gets in.
    /// With a deadline it gives up then; how many bytes went in.
    std::size_t send_input(std::span<const std::uint8_t> bytes,
                           std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max());
    /// The same for the virtio console; nothing goes in where there is none.
    std::size_t send_console_input(std::span<const std::uint8_t> bytes,
                                   std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max());
    /// Its size in characters; told to the guest. Once the machine is thawed, where it is frozen.
    void resize_console(std::uint16_t columns, std::uint16_t rows);
    /// The held reader of `virtio_console` has room again.
    void console_output_ready();
    /// Lets a `send_input` that waits, and all later ones, return without having sent all.
    void stop_input();
    /// Presses the machine's power button, once it is not frozen; false when that lasts until the deadline, or when the guest listens to
    /// no such thing (yet: one that comes to it later finds the button pressed).
    bool press_power_button(std::chrono::steady_clock::time_point deadline);
    /// The console's held reader has room again.
    void output_ready();

    [[nodiscard]] MachineStats stats() const;
    /// Whether a driver in the guest has come to work with one of its virtio devices since it was created or restored.
    [[nodiscard]] bool had_driver() const;

    /// usage: the machine has no balloon. Waits while the machine is frozen, as `send_input` does.
    Result<BalloonStatus> balloon() const;
    Status set_balloon(std::uint64_t bytes);
    Status set_balloon_polling(std::uint16_t seconds);
    /// Where the guest is polled, what it said last; else it is asked anew, and what it said last is given when it has not answered by the
    /// deadline.
    Result<virtio::BalloonStatistics> balloon_statistics(std::chrono::steady_clock::time_point deadline);

    /// Whether it runs, has a balloon, and a driver of it that knows hints.
    [[nodiscard]] bool can_tell_free_pages() const;
    /// Adds what such a guest says it has no use for. One that does not answer is waited for 100 ms, one that does a second.
    void add_free_pages(DirtySet& into);

    /// For a snapshot: the guest's balloon takes what it has free already, `most` bytes at most (virtio::release_free); how much that was.
    /// Nothing where there is no balloon, or no guest that runs. Saved states have the balloon's target as it was before.
    Result<std::uint64_t> release_free(std::uint64_t most, const std::function<Status()>& go_on);
    /// The guest may have it again; idempotent. Once the machine is thawed, where it is frozen.
    void give_back();

    /// Of a restored machine, once it has run: whether its TSC was set (read back), or is the host's. Nothing before.
    [[nodiscard]] std::optional<bool> tsc_was_set() const;

private:
    Machine(const kvm::System& system, MachineConfig config, GuestMemory memory, kvm::Vm vm);
    static Result<std::unique_ptr<Machine>> assemble(const kvm::System& system, const MachineConfig& config, GuestMemory memory,
                                                     RecordReader* records, const HostSetup& host);
    Status choose_tracking(DirtyTracking wish);
    void build_tracker();
    Status map_memory();
    Status build_devices(RecordReader* records, const DiskOpener& open_disk);
    Status put_on_bus(const AttachedDevice& attached, std::string_view name);
    Status build_vcpus(bool repair_kernel_mode);
    Status load_vcpus(RecordReader& records);
    Status check_features(const CpuidTable& saved);
    Status start_first_time();
    std::size_t feed(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline,
                     const std::function<std::size_t(std::span<const std::uint8_t>)>& receive);
    void let_devices_begin();  // with control_ held
    Status set_guest_time();
    Status finish_lost_eois();
    void thaw_locked();
    [[nodiscard]] Status has_balloon() const;
    void end_with_report(Outcome outcome, const std::string& reason, const kvm::VcpuFd& vcpu, int run_error);
    template <class What>
    auto with_balloon(What what);

    // GuestEvents
    void request(GuestRequest what, std::uint8_t exit_code) override;
    void ready(std::uint32_t value) override;
    void mark(std::uint32_t value) override;
    // MsiSink
    void deliver(const MsiMessage& message) override;
    void set_routes(std::span<const MsiMessage> routes) override;
    // VcpuEvents
    void end_of_interrupt(std::uint8_t vector) override;
    void triple_fault(const kvm::VcpuFd& vcpu) override;
    void vcpu_failed(const kvm::VcpuFd& vcpu, Error error) override;
    void dirty_ring_full() override;
    void failed(Error error) override;

    const kvm::System& system_;
    MachineConfig config_;
    // Destroyed from the bottom up: threads (vcpus_) first, then devices, then KVM's machine, and last the memory it has mapped.
    GuestMemory memory_;
    kvm::Vm vm_;
    std::vector<std::uint32_t> msr_indices_;
    std::optional<kvm_clock_data> restored_clock_;  ///< set before the vCPUs first run, and what `save` returns until then
    std::vector<std::vector<kvm_msr_entry>> held_msrs_;  ///< likewise, by vCPU (take_late_msrs)
    std::uint32_t saved_tsc_khz_ = 0;
    GapMode gap_ = GapMode::hidden;
    std::optional<bool> tsc_was_set_;
    std::chrono::milliseconds drain_limit_{};
    bool restored_ = false;
    Console console_;
    Console virtio_console_;
    std::unique_ptr<EventLoop> loop_;  ///< of the virtio devices; null where there are none
    std::vector<AttachedDevice> devices_;
    IoApic* ioapic_ = nullptr;
    Serial* serial_ = nullptr;
    TestPort* test_port_ = nullptr;
    virtio::Mmio* balloon_transport_ = nullptr;  ///< null where there is no balloon
    virtio::Balloon* balloon_ = nullptr;
    std::vector<virtio::Mmio*> net_transports_;  ///< in the configuration's order
    virtio::Mmio* console_transport_ = nullptr;  ///< null where there is no virtio console
    virtio::Console* console_device_ = nullptr;
    Pvpanic* pvpanic_ = nullptr;
    Ged* events_device_ = nullptr;
    Bus ports_{kPortLimit};
    Bus mmio_{~0ULL};

    mutable std::mutex control_;  ///< one change of state at a time
    bool started_ = false;
    bool paused_ = true;
    bool frozen_ = false;
    unsigned quiesced_ = 0;  ///< by so many

    std::mutex input_;  ///< held while the world outside changes the serial port or presses the button, and guards the five below
    std::condition_variable input_changed_;
    bool input_held_ = false;
    bool input_over_ = false;
    bool output_waits_ = false;  ///< output_ready was called while frozen
    std::optional<std::pair<std::uint16_t, std::uint16_t>> resize_waits_;  ///< likewise resize_console
    bool give_back_waits_ = false;  ///< likewise

    mutable std::mutex events_;  ///< guards the two below
    mutable std::condition_variable event_;
    std::optional<Outcome> outcome_;
    bool ready_ = false;

    std::unique_ptr<VcpuSet> vcpus_;

    DirtyTracking tracking_ = DirtyTracking::automatic;  ///< what it has; automatic: none
    kvm::RingTracker* ring_ = nullptr;
    std::unique_ptr<DirtyFeed> dirty_;
};

}  // namespace snapvm
