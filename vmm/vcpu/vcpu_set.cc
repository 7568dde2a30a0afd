// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/vcpu_set.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>

#include "vmm/base/thread.h"
#include "vmm/base/time_slice.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;

// The kick is no real-time signal: the kernel refuses those with EAGAIN if the user's queue of them
// is full (RLIMIT_SIGPENDING, signal(7)), and the kick would be lost. Of the other signals this one
// is ignored by default, and by debuggers.
constexpr int kKickSignal = SIGURG;

// The time between the wakes of two threads: what one needs until it is in KVM_RUN, and some more.
// The second limits the sum for all threads.
constexpr std::chrono::nanoseconds kTurn = 60us;
constexpr std::chrono::nanoseconds kTurns = 2ms;

// The empty handler makes KVM_RUN return EINTR, and keeps the signal from its default action. No
// SA_RESTART.
void install_kick_handler() {
    static const bool installed = [] {
        struct sigaction action{};
        action.sa_handler = [](int /*signal*/) {};
        sigemptyset(&action.sa_mask);
        return ::sigaction(kKickSignal, &action, nullptr) == 0;
    }();
    (void)installed;
}

// Unblocks the kick on a vCPU's thread. The process' own signals (SIGINT, SIGTERM) go to its other
// threads.
void take_kicks() {
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, kKickSignal);
    ::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
}

// Returns the processors that the main thread may use. A host with more than a cpu_set_t has counts
// as one without limit. std::thread::hardware_concurrency() opens a file of sysfs, and this is
// called within a pause.
std::int64_t usable_processors() {
    cpu_set_t usable;
    const bool known = ::sched_getaffinity(::getpid(), sizeof usable, &usable) == 0;
    return known ? CPU_COUNT(&usable) : std::numeric_limits<std::int64_t>::max();
}

Error internal_error(const kvm::VcpuFd& vcpu) {
    const kvm_run& run = vcpu.shared();
    const auto regs = vcpu.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS");
    std::array<char, 160> text;
    switch (run.exit_reason) {
        case KVM_EXIT_INTERNAL_ERROR:
            std::snprintf(text.data(), text.size(), "KVM cannot go on with vCPU %u: internal error %u%s at RIP 0x%llx",
                          vcpu.index(), run.internal.suberror,
                          run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION ? " (emulation failed)" : "",
                          regs ? static_cast<unsigned long long>(regs->rip) : 0ULL);
            return {ErrorKind::unsupported, text.data(),
                    "see the crash report: this host's KVM may not emulate the instruction at RIP"};
        case KVM_EXIT_FAIL_ENTRY:
            std::snprintf(text.data(), text.size(), "KVM cannot enter vCPU %u: hardware reason 0x%llx", vcpu.index(),
                          static_cast<unsigned long long>(run.fail_entry.hardware_entry_failure_reason));
            return {ErrorKind::unsupported, text.data(), "the processor does not accept the vCPU's state"};
        default:
            std::snprintf(text.data(), text.size(), "vCPU %u: KVM exit %u is not handled, at RIP 0x%llx", vcpu.index(),
                          run.exit_reason, regs ? static_cast<unsigned long long>(regs->rip) : 0ULL);
            return {ErrorKind::unsupported, text.data()};
    }
}

}  // namespace

VcpuSet::VcpuSet(std::span<kvm::VcpuFd> vcpus, const Bus& ports, const Bus& mmio, VcpuEvents& events,
                 std::vector<std::unique_ptr<ExitRepair>> repairs)
    : vcpus_(vcpus), ports_(ports), mmio_(mmio), events_(events), repairs_(std::move(repairs)) {
    install_kick_handler();
}

VcpuSet::~VcpuSet() { stop(); }

Status VcpuSet::start() {
    for (const kvm::VcpuFd& vcpu : vcpus_) {
        UniqueFd alarm(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
        if (!alarm.valid()) {
            return fail(Error::system("timerfd_create", "vCPU " + std::to_string(vcpu.index()), errno,
                                      "raise the limit of open files (ulimit -n)"));
        }
        alarms_.push_back(std::move(alarm));
    }
    Status started;
    {
        // Held until all threads are in threads_: a vCPU that fails at once kicks the others.
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < vcpus_.size() && started; ++i) {
            auto thread = start_thread(ThreadRole::vcpu, [this, i] { run_thread(i); }, vcpus_[i].index());
            if (thread) {
                threads_.push_back(*std::move(thread));
            } else {
                started = fail(std::move(thread).error());
            }
        }
    }
    if (!started) {
        stop();
    }
    return started;
}

void VcpuSet::stop() {
    {
        const std::lock_guard lock(mutex_);
        gate_.store(Gate::stop);
        kick_all();
        for (std::size_t i = 0; i < threads_.size(); ++i) {
            wake(i, std::chrono::steady_clock::now());
        }
    }
    for (std::thread& thread : threads_) {
        thread.join();
    }
    threads_.clear();
}

void VcpuSet::request_pause() {
    const std::lock_guard lock(mutex_);
    if (gate_.load() == Gate::open) {
        gate_.store(Gate::pause);
        kick_all();
    }
}

void VcpuSet::request_end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    if (gate_.load() == Gate::open) {
        gate_.store(Gate::pause);
        kick_all();
    }
}

void VcpuSet::pause() {
    request_pause();
    std::unique_lock lock(mutex_);
    // One kick is enough (see the class). The repeats keep the wait finite if a host loses it all
    // the same.
    while (!changed_.wait_for(lock, std::chrono::milliseconds(100), [this] { return parked_ == threads_.size(); })) {
        kick_all();
    }
}

void VcpuSet::resume() {
    static const std::int64_t processors = usable_processors();
    const std::lock_guard lock(mutex_);
    if (gate_.load() != Gate::pause || ended_) {
        return;
    }
    gate_.store(Gate::open);
    // If there are more vCPUs than processors, they are woken one after the other. Woken all at
    // once, the first ones would keep the processors until a tick, and the pause would last until
    // the others had run, too. Timers do it, since their interrupts need no thread to run.
    const auto now = std::chrono::steady_clock::now();
    const auto all = static_cast<std::int64_t>(threads_.size());
    const std::chrono::nanoseconds turn = all > processors ? std::min(kTurn, kTurns / all) : 0ns;
    for (std::int64_t i = 0; i < all; ++i) {
        wake(static_cast<std::size_t>(i), now + turn * i);
    }
}

// A parked thread reads gate_ when its timer expires. If the thread is not parked, its next park
// returns from read once too early, and reads gate_ again.
void VcpuSet::wake(std::size_t index, std::chrono::steady_clock::time_point when) {
    using namespace std::chrono;
    const auto since = when.time_since_epoch();
    const auto whole = duration_cast<seconds>(since);
    itimerspec alarm{};
    alarm.it_value = {whole.count(), duration_cast<nanoseconds>(since - whole).count()};
    (void)::timerfd_settime(alarms_[index].get(), TFD_TIMER_ABSTIME, &alarm, nullptr);  // fails for bad arguments only
}

std::chrono::steady_clock::time_point VcpuSet::wait_resumed() {
    while (true) {
        {
            const std::lock_guard lock(mutex_);
            if (parked_ == 0 || gate_.load() != Gate::open) {
                return resumed_at_;
            }
        }
        // Polls instead of being woken by the last vCPU, whose first moments belong to the guest.
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
}

void VcpuSet::kick_all() {
    for (kvm::VcpuFd& vcpu : vcpus_) {
        vcpu.request_immediate_exit();
    }
    for (std::thread& thread : threads_) {
        ::pthread_kill(thread.native_handle(), kKickSignal);
    }
}

// Waits while the gate is at pause. Returns false if the thread is to end.
bool VcpuSet::park(std::size_t index) {
    kvm::VcpuFd& vcpu = vcpus_[index];
    complete_pending_exit(vcpu);
    // Tells the guest that it was stopped. This must follow the last KVM_RUN and precede the read
    // of the guest's clock.
    if (Status told = vcpu.notify_paused(); !told) {
        events_.failed(std::move(told).error());
    }
    std::optional<ShortSlice> prompt(std::in_place);
    std::unique_lock lock(mutex_);
    ++parked_;
    changed_.notify_all();
    while (gate_.load() == Gate::pause) {
        lock.unlock();
        std::uint64_t alarms = 0;
        // A kick ends the read too, and gate_ is read again.
        (void)!::read(alarms_[index].get(), &alarms, sizeof alarms);
        lock.lock();
    }
    // Ends before the guest runs. The vCPU then gets normal slices, and a thread woken after it
    // preempts it.
    prompt.reset();
    --parked_;
    resumed_at_ = std::chrono::steady_clock::now();
    return gate_.load() == Gate::open;
}

// The kernel completes a port or MMIO read only at the next KVM_RUN. In state read before that, the
// instruction would run twice or never. With immediate_exit KVM completes it without entering the
// guest. A string instruction may exit again.
void VcpuSet::complete_pending_exit(kvm::VcpuFd& vcpu) {
    while (true) {
        vcpu.request_immediate_exit();
        const int error = vcpu.run();
        if (error == 0 ? !handle_exit(vcpu) : error != EAGAIN) {
            return;
        }
    }
}

// Makes one KVM_RUN and handles its exit. Returns false if this vCPU cannot go on.
bool VcpuSet::enter(kvm::VcpuFd& vcpu, const Progress& first) {
    const int error = vcpu.run();
    if (first_run_.load(std::memory_order_relaxed) == 0) [[unlikely]] {
        watch_first_run(vcpu, first, error);
    }
    if (error == EINTR || error == EAGAIN) {
        return true;  // kicked, or an AP was woken: run_thread reads gate_ next
    }
    exits_.count_shared();
    if (error != 0) {
        events_.vcpu_failed(vcpu, Error::system("KVM_RUN", "vCPU " + std::to_string(vcpu.index()), error));
        return false;
    }
    return handle_exit(vcpu);
}

// Reads what changes when a guest runs: its registers, or the deadline that it sets anew if it
// halts again at the same place.
VcpuSet::Progress VcpuSet::progress_of(const kvm::VcpuFd& vcpu) {
    constexpr std::uint32_t kTscDeadline = 0x6E0;
    Progress progress;
    if (const auto regs = vcpu.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS")) {
        progress.rip = regs->rip;
        progress.rcx = regs->rcx;
    }
    if (const auto msr = vcpu.msrs(std::span(&kTscDeadline, 1)); msr && !msr->empty()) {
        progress.deadline = msr->front().data;
    }
    return progress;
}

void VcpuSet::watch_first_run(kvm::VcpuFd& vcpu, const Progress& before, int error) {
    if (error != 0 && progress_of(vcpu) == before) {
        return;  // interrupted before the guest executed an instruction
    }
    Instant none = 0;
    first_run_.compare_exchange_strong(none, std::chrono::steady_clock::now().time_since_epoch().count());
}

std::optional<std::chrono::steady_clock::time_point> VcpuSet::wait_first_run(
    std::chrono::steady_clock::time_point deadline) {
    using std::chrono::steady_clock;
    constexpr auto kPatience = std::chrono::milliseconds(1);
    while (first_run_.load() == 0) {
        if (steady_clock::now() >= deadline) {
            return std::nullopt;
        }
        std::this_thread::sleep_for(kPatience);
        const std::lock_guard lock(mutex_);
        if (first_run_.load() == 0) {
            for (std::thread& thread : threads_) {
                ::pthread_kill(thread.native_handle(), kKickSignal);
            }
        }
    }
    return steady_clock::time_point(steady_clock::duration(first_run_.load()));
}

void VcpuSet::run_thread(std::size_t index) {
    kvm::VcpuFd& vcpu = vcpus_[index];
    take_kicks();
    const Progress before = progress_of(vcpu);
    if (!repairs_.empty()) {
        if (Status begun = repairs_[index]->begin(vcpu); !begun) {
            events_.vcpu_failed(vcpu, std::move(begun).error());
            request_end();
        }
    }
    while (true) {
        vcpu.clear_immediate_exit();
        if (gate_.load(std::memory_order_seq_cst) != Gate::open) {
            if (!park(index)) {
                return;
            }
            continue;
        }
        if (!enter(vcpu, before)) {
            // This vCPU has failed, and so the machine has ended. All vCPUs stay parked until
            // stop().
            request_end();
        }
    }
}

bool VcpuSet::handle_exit(kvm::VcpuFd& vcpu) {
    if (!repairs_.empty()) [[unlikely]] {
        if (Status looked = repairs_[vcpu.index()]->look(vcpu); !looked) {
            events_.vcpu_failed(vcpu, std::move(looked).error());
            return false;
        }
    }
    switch (vcpu.shared().exit_reason) {
        case KVM_EXIT_IO: handle_port_access(vcpu); return true;
        case KVM_EXIT_MMIO: handle_mmio_access(vcpu); return true;
        case KVM_EXIT_IOAPIC_EOI: events_.end_of_interrupt(vcpu.shared().eoi.vector); return true;
        case KVM_EXIT_INTR:
        case KVM_EXIT_IRQ_WINDOW_OPEN: return true;
        case KVM_EXIT_DIRTY_RING_FULL: events_.dirty_ring_full(); return true;
        case KVM_EXIT_SHUTDOWN: events_.triple_fault(vcpu); return false;
        case KVM_EXIT_DEBUG:
        case KVM_EXIT_INTERNAL_ERROR: return repair_exit(vcpu);
        default: events_.vcpu_failed(vcpu, internal_error(vcpu)); return false;
    }
}

bool VcpuSet::repair_exit(kvm::VcpuFd& vcpu) {
    if (!repairs_.empty()) {
        const Result<bool> repaired = repairs_[vcpu.index()]->repair(vcpu);
        if (!repaired) {
            events_.vcpu_failed(vcpu, repaired.error());
            return false;
        }
        if (*repaired) {
            return true;
        }
    }
    events_.vcpu_failed(vcpu, internal_error(vcpu));
    return false;
}

void VcpuSet::handle_port_access(const kvm::VcpuFd& vcpu) {
    const auto& io = vcpu.shared().io;
    // Handles one element at a time: the `count` accesses of a string instruction go to the same
    // port.
    std::span<std::byte> bytes = vcpu.io_bytes();
    for (std::uint32_t i = 0; i < io.count; ++i) {
        const std::span<std::byte> element = bytes.subspan(static_cast<std::size_t>(i) * io.size, io.size);
        if (io.direction == KVM_EXIT_IO_OUT) {
            ports_.write(io.port, element);
        } else {
            ports_.read(io.port, element);
        }
    }
}

void VcpuSet::handle_mmio_access(const kvm::VcpuFd& vcpu) {
    auto& mmio = vcpu.shared().mmio;
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(mmio.data)).first(mmio.len);
    if (mmio.is_write != 0) {
        mmio_.write(mmio.phys_addr, bytes);
    } else {
        mmio_.read(mmio.phys_addr, bytes);
    }
}

}  // namespace snapvm
