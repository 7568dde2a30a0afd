// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/vcpu_set.h"

#include <pthread.h>
#include <signal.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "vmm/base/time_slice.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;

// A real-time signal is refused (EAGAIN) when the user's queue of them is full (RLIMIT_SIGPENDING, signal(7)): a kick would be lost. Of the
// others this one is ignored by default, and by debuggers.
constexpr int kKickSignal = SIGURG;

// What a woken thread needs until it is in KVM_RUN, and some more; and what all of them are to take at most.
constexpr std::chrono::nanoseconds kTurn = 60us;
constexpr std::chrono::nanoseconds kTurns = 2ms;

// The handler does nothing: its only work is to be there, so that KVM_RUN returns EINTR and the process lives. No SA_RESTART.
void install_kick_handler() {
    static const bool installed = [] {
        struct sigaction action{};
        action.sa_handler = [](int /*signal*/) {};
        sigemptyset(&action.sa_mask);
        return ::sigaction(kKickSignal, &action, nullptr) == 0;
    }();
    (void)installed;
}

// vCPU threads take no signal but the kick: the process' own (SIGINT, SIGTERM) belong to its other threads.
class BlockSignals {
public:
    BlockSignals() {
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, kKickSignal);
        ::pthread_sigmask(SIG_SETMASK, &all, &old_);
    }
    ~BlockSignals() { ::pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
    BlockSignals(const BlockSignals&) = delete;
    BlockSignals& operator=(const BlockSignals&) = delete;

private:
    sigset_t old_;
};

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
            return {ErrorKind::unsupported, text.data(), "the guest used an instruction this host's KVM does not emulate"};
        case KVM_EXIT_FAIL_ENTRY:
            std::snprintf(text.data(), text.size(), "KVM cannot enter vCPU %u: hardware reason 0x%llx", vcpu.index(),
                          static_cast<unsigned long long>(run.fail_entry.hardware_entry_failure_reason));
            return {ErrorKind::unsupported, text.data(), "the vCPU's state is not one the processor accepts"};
        default:
            std::snprintf(text.data(), text.size(), "vCPU %u: KVM exit %u is not handled, at RIP 0x%llx", vcpu.index(),
                          run.exit_reason, regs ? static_cast<unsigned long long>(regs->rip) : 0ULL);
            return {ErrorKind::unsupported, text.data()};
    }
}

}  // namespace

VcpuSet::VcpuSet(std::vector<kvm::VcpuFd> vcpus, const Bus& ports, const Bus& mmio, VcpuEvents& events,
                 std::vector<std::unique_ptr<ExitRepair>> repairs)
    : vcpus_(std::move(vcpus)), ports_(ports), mmio_(mmio), events_(events), repairs_(std::move(repairs)) {
    install_kick_handler();
}

VcpuSet::~VcpuSet() { stop(); }

Status VcpuSet::start() {
    for (const kvm::VcpuFd& vcpu : vcpus_) {
        UniqueFd alarm(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
        if (!alarm.valid()) {
            return fail(Error::system("timerfd_create", "vCPU " + std::to_string(vcpu.index()), errno, "raise ulimit -n"));
        }
        alarms_.push_back(std::move(alarm));
    }
    const BlockSignals blocked;  // inherited by the threads
    try {
        // Held until all are there: a vCPU that fails at once kicks the others.
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < vcpus_.size(); ++i) {
            threads_.emplace_back([this, i] { run_thread(i); });
        }
    } catch (const std::system_error& error) {
        stop();
        return fail(Error::system("pthread_create", "vCPU thread", error.code().value(), "raise the process limit (ulimit -u)"));
    }
    return {};
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
    // One kick does, by the order of things (see the class). Should a host lose it all the same, nobody waits for ever.
    while (!changed_.wait_for(lock, std::chrono::milliseconds(100), [this] { return parked_ == threads_.size(); })) {
        kick_all();
    }
}

void VcpuSet::resume() {
    static const std::int64_t processors = std::max(1U, std::thread::hardware_concurrency());
    const std::lock_guard lock(mutex_);
    if (gate_.load() != Gate::pause || ended_) {
        return;
    }
    gate_.store(Gate::open);
    // Where there are more of them than processors, one after the other: woken all at once, the first to run would keep the processors until a
    // tick, and the pause would last until the others had had their turn, too. By timers, whose interrupts need no thread to run.
    const auto now = std::chrono::steady_clock::now();
    const auto all = static_cast<std::int64_t>(threads_.size());
    const std::chrono::nanoseconds turn = all > processors ? std::min(kTurn, kTurns / all) : 0ns;
    for (std::int64_t i = 0; i < all; ++i) {
        wake(static_cast<std::size_t>(i), now + turn * i);
    }
}

// Whoever is parked looks at the gate then; who is not finds it out at its next park, and looks in vain.
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
        // Asleep rather than woken by the last of them: its first moment is the guest's.
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

// Waits at the gate; false when the thread is to end.
bool VcpuSet::park(std::size_t index) {
    kvm::VcpuFd& vcpu = vcpus_[index];
    complete_pending_exit(vcpu);
    // After the last KVM_RUN and before the guest's clock is read: the guest is told that it was stopped.
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
        (void)!::read(alarms_[index].get(), &alarms, sizeof alarms);  // or a kick, after which the gate is looked at, too
        lock.lock();
    }
    prompt.reset();  // in the guest it runs as long as any other, and whoever comes after it takes its place
    --parked_;
    resumed_at_ = std::chrono::steady_clock::now();
    return gate_.load() == Gate::open;
}

// The kernel finishes a port or MMIO read only at the next KVM_RUN: state that is read before that runs the instruction twice or
// never (traps.md). immediate_exit makes KVM finish it without entering the guest; string instructions may ask again.
void VcpuSet::complete_pending_exit(kvm::VcpuFd& vcpu) {
    while (true) {
        vcpu.request_immediate_exit();
        const int error = vcpu.run();
        if (error == 0 ? !handle_exit(vcpu) : error != EAGAIN) {
            return;
        }
    }
}

// One KVM_RUN and what it asked for; false when this vCPU cannot go on.
bool VcpuSet::enter(kvm::VcpuFd& vcpu, const Progress& first) {
    const int error = vcpu.run();
    if (first_run_.load(std::memory_order_relaxed) == 0) [[unlikely]] {
        watch_first_run(vcpu, first, error);
    }
    if (error == EINTR || error == EAGAIN) {
        return true;  // kicked, or an AP that was woken: look at the gate
    }
    exits_.fetch_add(1, std::memory_order_relaxed);
    if (error != 0) {
        events_.vcpu_failed(vcpu, Error::system("KVM_RUN", "vCPU " + std::to_string(vcpu.index()), error));
        return false;
    }
    return handle_exit(vcpu);
}

// What changes when a guest runs: its registers or, where it halts again at the same place, the deadline it has set anew.
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
        return;  // interrupted before the guest came to anything
    }
    Instant none = 0;
    first_run_.compare_exchange_strong(none, std::chrono::steady_clock::now().time_since_epoch().count());
}

std::optional<std::chrono::steady_clock::time_point> VcpuSet::wait_first_run(std::chrono::steady_clock::time_point deadline) {
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
    ::pthread_setname_np(::pthread_self(), ("vcpu" + std::to_string(vcpu.index())).c_str());
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
            // Over for this vCPU, and so for the machine: all stand still until somebody takes it apart.
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
    // One element at a time: a string instruction's `count` accesses are to the same port.
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
