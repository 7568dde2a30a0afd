// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/machine_service.h"

#include <unistd.h>

#include "vmm/api/line_matcher.h"
#include "vmm/api/machine_source.h"
#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm::api {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSlice = std::chrono::milliseconds(20);

}  // namespace

std::unexpected<Error> MachineService::ended_error(std::string_view wish) const {
    const auto how = outcome();
    return fail(ErrorKind::usage, "the machine has ended (" + std::string(how ? how->name() : "stopped") + ")" + std::string(wish));
}

ServiceState MachineService::state() const {
    switch (machine_.state()) {
        case Machine::State::not_started: return ServiceState::not_started;
        case Machine::State::running: return ServiceState::running;
        case Machine::State::paused: return ServiceState::paused;
        case Machine::State::ended: return ServiceState::ended;
    }
    return ServiceState::ended;
}

ServiceStats MachineService::stats() const {
    const MachineStats machine = machine_.stats();
    const auto last_snapshot = [this] {
        const std::lock_guard lock(snapshot_);
        return last_report_;
    };
    return {.id = id_,
            .state = state(),
            .pid = static_cast<std::uint32_t>(::getpid()),
            .uptime_us = uptime_.us(),
            .memory_bytes = config().memory_bytes,
            .cpus = config().cpus,
            .exits = machine.exits,
            .ready = machine.ready,
            .ready_value = machine.ready_value,
            .mark = machine.mark,
            .marks = machine.marks,
            .crash_loaded = machine.crash_loaded,
            .serial_bytes = console().end(),
            .networks = machine.networks,
            .snapshot = last_snapshot(),
            .outcome = outcome()};
}

Status MachineService::pause() {
    if (outcome()) {
        return ended_error("");
    }
    return machine_.pause();
}

Status MachineService::resume() { return machine_.resume(); }

MachineService::~MachineService() {
    (void)cancel_snapshot();
    if (background_.joinable()) {
        background_.join();
    }
}

Result<std::shared_ptr<MachineService::Job>> MachineService::claim_snapshot() {
    const std::lock_guard lock(snapshot_);
    if (job_ && !job_->result) {
        return fail(ErrorKind::busy, "a snapshot of this machine is being written already",
                    "try again when it is done, or: snapvm snapshot-cancel " + id_);
    }
    if (detaching_) {
        return fail(ErrorKind::busy, "this machine is being detached from its snapshot", "try again when that is done");
    }
    job_ = std::make_shared<Job>();
    return job_;
}

Result<SnapshotReport> MachineService::run_snapshot(Job& job, const SnapshotRequest& request) {
    Result<SnapshotReport> result = fail(ErrorKind::system, "the snapshot ran out of memory");
    try {
        result = write_and_then(job, request);
    } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
        // A job without a result would be "busy" for ever.
    }
    {
        const std::lock_guard lock(snapshot_);
        job.result = result;
        if (result) {
            last_report_ = *result;
        }
    }
    snapshot_over_.notify_all();
    return result;
}

Result<SnapshotReport> MachineService::snapshot(const SnapshotRequest& request) {
    const std::shared_ptr<Job> job = TRY(claim_snapshot());
    return run_snapshot(*job, request);
}

Status MachineService::start_snapshot(const SnapshotRequest& request) {
    const std::lock_guard starting(starting_);
    std::shared_ptr<Job> job = TRY(claim_snapshot());
    if (background_.joinable()) {
        background_.join();  // the one before has its result, and so is at its end
    }
    auto thread = start_thread("snapshot", [this, job, request] { (void)run_snapshot(*job, request); });
    if (!thread) {
        const std::lock_guard lock(snapshot_);
        job_.reset();
        return fail(std::move(thread).error());
    }
    background_ = *std::move(thread);
    return {};
}

SnapshotStatus MachineService::status_of(const Watched& watched) {
    const SnapshotMonitor& monitor = watched.monitor;
    SnapshotStatus status;
    status.phase = monitor.phase.load();
    status.round = monitor.round;
    status.round_pages = monitor.round_pages;
    status.round_done = monitor.round_done;
    status.written_bytes = monitor.written_bytes;
    status.staged_bytes = monitor.staged_bytes;
    status.elapsed_us = watched.since_start.us();
    return status;
}

SnapshotStatus MachineService::snapshot_status() const {
    const std::lock_guard lock(snapshot_);
    if (detaching_) {
        SnapshotStatus status = status_of(*detaching_);
        status.phase = SnapshotPhase::detaching;  // also before it has begun
        return status;
    }
    if (!job_) {
        return {};
    }
    SnapshotStatus status = status_of(*job_);
    if (!job_->result) {
        if (status.phase == SnapshotPhase::done) {
            status.phase = SnapshotPhase::draining;  // done to callers is what has a result
        }
        return status;
    }
    status.phase = SnapshotPhase::done;
    if (*job_->result) {
        status.report = **job_->result;
        status.elapsed_us = status.report->total_us;
    } else {
        status.elapsed_us = 0;
        status.error = job_->result->error();
    }
    return status;
}

Status MachineService::cancel_snapshot() {
    const std::lock_guard lock(snapshot_);
    if (detaching_) {
        detaching_->monitor.cancel();
        return {};
    }
    if (!job_ || job_->result) {
        return fail(ErrorKind::usage, "no snapshot of this machine is being written");
    }
    job_->monitor.cancel();
    return {};
}

Result<DetachReport> MachineService::detach() {
    const auto detaching = std::make_shared<Watched>();
    {
        const std::lock_guard lock(snapshot_);
        if (detaching_ || (job_ && !job_->result)) {
            return fail(ErrorKind::busy,
                        detaching_ ? "this machine is being detached already" : "a snapshot of this machine is being written",
                        "try again when that is done");
        }
        detaching_ = detaching;
    }
    Result<DetachReport> result = fail(ErrorKind::system, "detaching ran out of memory");
    try {
        MachineSnapshotSource source(machine_);
        result = detach_snapshot(source, machine_.memory(), &detaching->monitor);
    } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
        // It would be "busy" for ever.
    }
    {
        const std::lock_guard lock(snapshot_);
        detaching_.reset();
    }
    snapshot_over_.notify_all();
    return result;
}

Status MachineService::set_balloon(std::uint64_t bytes) {
    if (outcome()) {
        return ended_error("");
    }
    return machine_.set_balloon(bytes);
}

Result<BalloonReport> MachineService::balloon_statistics() {
    // A guest that runs answers within a few of its interrupts; one that stands does not answer.
    constexpr auto kPatience = std::chrono::milliseconds(200);
    virtio::BalloonStatistics statistics = TRY(machine_.balloon_statistics(Clock::now() + kPatience));
    return BalloonReport{TRY(machine_.balloon()), statistics};
}

void MachineService::run_ended() {
    const std::lock_guard lock(snapshot_);
    if (job_ && !job_->result && job_->monitor.phase < SnapshotPhase::paused) {
        job_->monitor.cancel();
    }
}

Result<SnapshotReport> MachineService::write_and_then(Job& job, const SnapshotRequest& request) {
    // Found out at the pause, it would have cost the area its older snapshot.
    if (outcome()) {
        return ended_error("");
    }
    MachineSnapshotSource source(machine_);
    WriteOptions options;
    options.metadata = request.metadata;
    options.cache = request.cache;
    options.mode = request.mode;
    options.live = request.live;
    options.type = request.type;
    options.track = request.track;
    options.release_free = request.release_free;
    options.history = &history_;
    options.names = names_;
    options.monitor = &job.monitor;
    // Paused or ended while still frozen: not one instruction runs after the snapshot.
    options.keep_frozen = request.then == AfterSnapshot::pause || request.then == AfterSnapshot::stop;
    auto written = write_snapshot(source, request.area, options);
    if (!written && written.error().kind() == ErrorKind::cancelled && outcome()) {
        return ended_error(" before the snapshot had its pause");
    }
    SnapshotReport report = TRY(std::move(written));
    switch (request.then) {
        case AfterSnapshot::as_before: break;
        case AfterSnapshot::run:
            // It may have ended by itself while the snapshot was committed: that one is good all the same.
            if (Status resumed = machine_.resume(); !resumed && !outcome()) {
                return fail(std::move(resumed).error());
            }
            break;
        case AfterSnapshot::pause: {
            const Status paused = machine_.pause();
            machine_.thaw();
            TRY(Status(paused));
            break;
        }
        case AfterSnapshot::stop:
            machine_.end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
            machine_.thaw();
            break;
    }
    return report;
}

Result<Outcome> MachineService::stop(const StopRequest& request) {
    if (!request.force) {
        const auto deadline = Clock::now() + request.timeout;
        {
            std::unique_lock lock(snapshot_);
            snapshot_over_.wait_until(lock, deadline, [this] { return !detaching_ && (!job_ || job_->result); });
        }
        // A guest that is paused, or that listens to no power button, would let the time pass in vain.
        if (machine_.state() == Machine::State::running && machine_.press_power_button(deadline)) {
            (void)machine_.wait_ended(deadline);
        }
    }
    machine_.end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    return *outcome();
}

Result<std::optional<WaitResult>> MachineService::wait(const WaitRequest& request, const GivenUp& given_up) {
    const auto deadline = Clock::now() + request.timeout;
    WaitResult result{.what = request.what, .ready_value = 0, .line = {}, .outcome = {}};
    if (request.what == WaitFor::serial) {
        const LineMatcher matcher = TRY(LineMatcher::compile(request.regex));
        const auto line = wait_for_line(console(), matcher, deadline, given_up, [this] { return outcome().has_value(); });
        if (!line) {
            if (outcome() && Clock::now() < deadline && !(given_up && given_up())) {
                return ended_error(" and no line of its output matches");
            }
            return std::nullopt;
        }
        result.line = *line;
        return result;
    }
    while (true) {
        // In slices, to notice a client that has hung up; what is waited for wakes us at once.
        const auto slice = std::min(deadline, Clock::now() + kSlice);
        if (request.what == WaitFor::exit) {
            if (const auto ended = machine_.wait_ended(slice)) {
                result.outcome = *ended;
                return result;
            }
        } else if (machine_.wait_ready(slice)) {
            result.ready_value = machine_.stats().ready_value;
            return result;
        } else if (outcome()) {
            return ended_error(" before it was ready");
        }
        if (Clock::now() >= deadline || (given_up && given_up())) {
            return std::nullopt;
        }
    }
}

std::size_t MachineService::send_input(std::span<const std::uint8_t> bytes, Clock::time_point deadline) {
    return virtio_terminal_ ? machine_.send_console_input(bytes, deadline) : machine_.send_input(bytes, deadline);
}

void MachineService::resize_terminal(TerminalSize size) {
    if (virtio_terminal_) {
        machine_.resize_console(size.columns, size.rows);
    }
}

}  // namespace snapvm::api
