// SPDX-License-Identifier: Apache-2.0
// All vCPUs of a machine, each with a thread: start, pause, resume, stop.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "vmm/base/counters.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/vcpu/exit_repair.h"

namespace snapvm {

/// Receives what a vCPU thread reports besides bus accesses. The vCPU threads call it; it must not
/// wait for a pause.
class VcpuEvents {
public:
    virtual ~VcpuEvents() = default;
    /// The guest acknowledged a level-triggered interrupt (split irqchip).
    virtual void end_of_interrupt(std::uint8_t vector) = 0;
    /// The guest shut itself down by a triple fault. Called on the thread of `vcpu`, whose state is
    /// that of the fault, unless KVM reset it.
    virtual void triple_fault(const kvm::VcpuFd& vcpu) = 0;
    /// KVM cannot run `vcpu` any more. Called on its thread. If KVM_RUN failed, the error has its
    /// errno; if the error's code is 0, KVM_RUN returned with an exit that the VMM cannot handle.
    virtual void vcpu_failed(const kvm::VcpuFd& vcpu, Error error) = 0;
    /// The dirty ring of the calling vCPU is full. The vCPU runs no guest code until there is room.
    virtual void dirty_ring_full() = 0;
    /// Another failure, after which the machine cannot go on.
    virtual void failed(Error error) = 0;
};

/// Runs vCPUs, each on a thread. One thread at a time calls start, pause and resume
/// (the machine's lock ensures it). Any thread, vCPU threads included, may call `request_pause` and
/// `request_end`.
///
/// No kick is lost: a kick writes gate_ and immediate_exit before it sends the signal, and a vCPU
/// thread clears immediate_exit before it reads gate_. So the thread either sees the new gate_, or
/// its KVM_RUN returns at once.
class VcpuSet {
public:
    /// The vCPUs must outlive it. `repairs` has one for each vCPU if this host's KVM needs them;
    /// else it is empty.
    VcpuSet(std::span<kvm::VcpuFd> vcpus, const Bus& ports, const Bus& mmio, VcpuEvents& events,
            std::vector<std::unique_ptr<ExitRepair>> repairs = {});
    ~VcpuSet();
    VcpuSet(const VcpuSet&) = delete;
    VcpuSet& operator=(const VcpuSet&) = delete;

    /// Starts the threads, which run the guest at once. Fails with system if a thread or timer
    /// cannot be created; none runs then.
    Status start();
    /// Returns when every vCPU is out of KVM_RUN with its last exit completed, so that its state
    /// can be read. Does nothing if they are paused.
    void pause();
    /// Asks for a pause and does not wait for it.
    void request_pause();
    /// Asks for a pause that `resume` does not end any more, since the run has ended. A `resume`
    /// may be on its way at that time.
    void request_end();
    /// Lets the vCPUs run again. If they outnumber the processors, it wakes them one after the
    /// other (vmm/DECISIONS.md: "Who leaves a pause last"). Does nothing unless they are paused, or
    /// after `request_end`.
    void resume();
    /// Waits until the last vCPU is on its way into KVM_RUN after a `resume`, and returns when that
    /// was. Returns an earlier time if the gate is not open any more.
    std::chrono::steady_clock::time_point wait_resumed();
    /// Ends and joins the threads, for good. May be called again; the destructor calls it.
    void stop();
    /// Returns when a vCPU was first seen to have executed an instruction: it made an exit, or its
    /// registers or timer had changed when it was interrupted. Returns nothing if that was not seen
    /// by the deadline. Interrupts the vCPUs every millisecond while it waits.
    std::optional<std::chrono::steady_clock::time_point> wait_first_run(std::chrono::steady_clock::time_point deadline);

    [[nodiscard]] std::span<kvm::VcpuFd> vcpus() { return vcpus_; }
    [[nodiscard]] std::span<const kvm::VcpuFd> vcpus() const { return vcpus_; }
    /// Returns how often KVM_RUN has returned with an exit, over all vCPUs.
    [[nodiscard]] std::uint64_t exits() const { return exits_.value(); }
    [[nodiscard]] const Counters& counters() const { return counters_; }

private:
    struct Progress {
        std::uint64_t rip = 0;
        std::uint64_t rcx = 0;
        std::uint64_t deadline = 0;
        friend bool operator==(const Progress&, const Progress&) = default;
    };
    static Progress progress_of(const kvm::VcpuFd& vcpu);
    void run_thread(std::size_t index);
    bool park(std::size_t index);
    void wake(std::size_t index, std::chrono::steady_clock::time_point when);
    bool enter(kvm::VcpuFd& vcpu, const Progress& first);
    void watch_first_run(kvm::VcpuFd& vcpu, const Progress& before, int error);
    void complete_pending_exit(kvm::VcpuFd& vcpu);
    bool handle_exit(kvm::VcpuFd& vcpu);
    bool repair_exit(kvm::VcpuFd& vcpu);
    void handle_port_access(const kvm::VcpuFd& vcpu);
    void handle_mmio_access(const kvm::VcpuFd& vcpu);
    void kick_all();  // mutex_ is held

    std::span<kvm::VcpuFd> vcpus_;
    const Bus& ports_;
    const Bus& mmio_;
    VcpuEvents& events_;
    std::vector<std::unique_ptr<ExitRepair>> repairs_;  // by vCPU; empty on most hosts

    // Guards threads_, parked_, ended_, resumed_at_ and changes of gate_. No other lock is taken
    // under it.
    std::mutex mutex_;
    std::condition_variable changed_;  // signals changes of parked_
    std::vector<UniqueFd> alarms_;  // one timerfd for each vCPU; a parked thread reads it
    enum class Gate : std::uint8_t { open, pause, stop };
    std::atomic<Gate> gate_ = Gate::open;
    std::size_t parked_ = 0;
    bool ended_ = false;  // after request_end
    std::chrono::steady_clock::time_point resumed_at_;  // when the last thread left its park
    Counters counters_;
    Counter exits_{counters_, "exits"};
    using Instant = std::chrono::steady_clock::rep;
    std::atomic<Instant> first_run_ = 0;  // when a vCPU was first seen to run; 0: not yet
    std::vector<std::thread> threads_;  // declared last, so that they are joined before the members above are destroyed
};

}  // namespace snapvm
