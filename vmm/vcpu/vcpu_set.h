// SPDX-License-Identifier: Apache-2.0
// All vCPUs of a machine, a thread each: start, pause, resume, stop.
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

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/vcpu/exit_repair.h"

namespace snapvm {

/// What a vCPU thread reports beside bus accesses. Called on vCPU threads; must not block on a pause.
class VcpuEvents {
public:
    virtual ~VcpuEvents() = default;
    /// A guest acknowledged a level-triggered interrupt (split irqchip).
    virtual void end_of_interrupt(std::uint8_t vector) = 0;
    /// The guest has shut itself down by a triple fault. Called on the thread of `vcpu`, which stands as it failed; so is `vcpu_failed`.
    virtual void triple_fault(const kvm::VcpuFd& vcpu) = 0;
    /// KVM cannot go on with `vcpu`: KVM_RUN failed with the error's errno, or, where that is 0, returned with an exit that is the end.
    virtual void vcpu_failed(const kvm::VcpuFd& vcpu, Error error) = 0;
    /// The vCPU's dirty ring is full: nothing of the guest runs on it before there is room.
    virtual void dirty_ring_full() = 0;
    /// Something else failed without which the machine cannot go on.
    virtual void failed(Error error) = 0;
};

/// Owns the vCPU descriptors and their threads. One controlling thread at a time calls start, pause and resume (the machine's lock
/// sees to that); `request_pause` may come from any thread, vCPU threads included.
///
/// No kick is lost: the gate's word and immediate_exit are written before the signal is sent, and a vCPU thread clears
/// immediate_exit before it looks at the gate, so whichever comes first, either it sees the gate or KVM_RUN returns at once.
class VcpuSet {
public:
    /// `repairs`: one a vCPU, where this host's KVM needs them; else none.
    VcpuSet(std::vector<kvm::VcpuFd> vcpus, const Bus& ports, const Bus& mmio, VcpuEvents& events,
            std::vector<std::unique_ptr<ExitRepair>> repairs = {});
    ~VcpuSet();
    VcpuSet(const VcpuSet&) = delete;
    VcpuSet& operator=(const VcpuSet&) = delete;

    /// Starts the threads; they run the guest at once.
    Status start();
    /// Returns when every vCPU is out of KVM_RUN with its last exit completed, so that its state can be read. Idempotent.
    void pause();
    /// Asks for a pause without waiting for it.
    void request_pause();
    /// The same for good: `resume` does nothing any more. The run has ended, maybe while somebody was about to resume.
    void request_end();
    /// Lets them go; one after the other where they outnumber the processors (vmm/DECISIONS.md: "Who leaves a pause last").
    void resume();
    /// When the last of those that `resume` let go was on its way into KVM_RUN; waits for that. Some earlier time if they are not to run.
    std::chrono::steady_clock::time_point wait_resumed();
    /// Ends and joins the threads, for good. Idempotent; the destructor does it too.
    void stop();
    /// When a vCPU was first seen to have executed an instruction (it asked for something, or its registers or timer had moved when
    /// it was interrupted); nothing when that has not been seen by the deadline. Interrupts the vCPUs a little while it waits.
    std::optional<std::chrono::steady_clock::time_point> wait_first_run(std::chrono::steady_clock::time_point deadline);

    [[nodiscard]] std::span<kvm::VcpuFd> vcpus() { return vcpus_; }
    [[nodiscard]] std::span<const kvm::VcpuFd> vcpus() const { return vcpus_; }
    /// How often KVM_RUN has returned to us, over all vCPUs.
    [[nodiscard]] std::uint64_t exits() const { return exits_.load(std::memory_order_relaxed); }

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
    void kick_all();  // with mutex_ held

    std::vector<kvm::VcpuFd> vcpus_;
    const Bus& ports_;
    const Bus& mmio_;
    VcpuEvents& events_;
    std::vector<std::unique_ptr<ExitRepair>> repairs_;  // by vCPU; empty on most hosts

    std::mutex mutex_;  // guards threads_, parked_ and changes of gate_; nothing else is locked while it is held
    std::condition_variable changed_;  // parked_
    std::vector<UniqueFd> alarms_;  // a timerfd a vCPU, whose thread is parked in a read of it
    enum class Gate : std::uint8_t { open, pause, stop };
    std::atomic<Gate> gate_ = Gate::open;
    std::size_t parked_ = 0;
    bool ended_ = false;  // also guarded by mutex_
    std::chrono::steady_clock::time_point resumed_at_;  // the last to leave its park; guarded by mutex_
    std::atomic<std::uint64_t> exits_ = 0;
    using Instant = std::chrono::steady_clock::rep;
    std::atomic<Instant> first_run_ = 0;  // 0: not seen yet
    std::vector<std::thread> threads_;  // last: joined before anything above goes
};

}  // namespace snapvm
