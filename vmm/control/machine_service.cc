// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/machine_service.h"

#include <unistd.h>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"
#include "vmm/control/host_resources.h"
#include "vmm/control/line_matcher.h"
#include "vmm/control/machine_source.h"

namespace snapvm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSlice = std::chrono::milliseconds(20);

// What a guest has written to an ephemeral disk is gone when its machine ends, so a restored guest
// would have another disk than the one it knows.
Status check_disks_stay(const DeviceConfig& devices) {
    for (const DiskConfig& disk : devices.disks) {
        if (disk.ephemeral != Ephemeral::off) {
            return fail(ErrorKind::unsupported,
                        "disk " + disk.id + " is ephemeral, and a snapshot would lack what the guest has written to it",
                        "take snapshots of a machine that has the disk without ephemeral=" +
                            std::string(name_of(disk.ephemeral)));
        }
    }
    return {};
}

// Lets a restore of this snapshot use again what the machine uses of the host. Returns why it could
// not; empty if it could, or there is nothing.
std::string write_down(const DeviceConfig& devices, const std::string& path, const SnapshotReport& report) {
    const std::vector<HostResource> resources = host_resources(devices);
    if (resources.empty()) {
        return {};
    }
    const Status recorded =
        record_snapshot({.id = report.snapshot_id, .area = report.area, .slot = report.slot, .path = path}, resources);
    return recorded ? std::string() : recorded.error().what();
}

}  // namespace

std::unexpected<Error> MachineService::ended_error(std::string_view wish) const {
    return fail(ErrorKind::usage, wrong_state(ServiceState::ended, outcome()).message() + std::string(wish));
}

ServiceState MachineService::state() const {
    switch (machine_.state()) {
        case Machine::State::running: return ServiceState::running;
        case Machine::State::not_started:
        case Machine::State::paused: return ServiceState::paused;
        case Machine::State::ended: return ServiceState::ended;
    }
    return ServiceState::ended;
}

std::string MachineService::pause_reason() const {
    const std::optional<Error> reason = machine_.pause_reason();
    return reason ? reason->message() : std::string();
}

ServiceStats MachineService::stats() const {
    const MachineStats machine = machine_.stats();
    const auto last_snapshot = [this] {
        const std::lock_guard lock(snapshot_);
        return last_report_;
    };
    return {.id = id_,
            .state = state(),
            .pause_reason = pause_reason(),
            .pid = static_cast<std::uint32_t>(::getpid()),
            .uptime_us = uptime_.us(),
            .memory_bytes = machine_.config().memory_bytes,
            .cpus = machine_.config().cpus,
            .exits = machine.exits,
            .ready = machine.ready,
            .ready_value = machine.ready_value,
            .mark = machine.mark,
            .marks = machine.marks,
            .crash_loaded = machine.crash_loaded,
            .serial_bytes = serial_output().end(),
            .networks = machine.networks,
            .counters = machine.counters,
            .snapshot = last_snapshot(),
            .outcome = outcome()};
}

Status MachineService::load(const LoadRequest& /*request*/) { return fail(wrong_state(state(), outcome())); }

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

// Only one of what changes the machine's disks, or has them stand still, runs at a time.
Status MachineService::check_idle() const {
    const std::string advice = "wait for its end, or call it off: snapvm snapshot-cancel " + id_;
    if (job_ && !job_->result) {
        return fail(ErrorKind::busy, "a snapshot of this machine is being written already", advice);
    }
    if (detaching_) {
        return fail(ErrorKind::busy, "this machine is being detached from its snapshot", advice);
    }
    if (taking_layer_) {
        return fail(ErrorKind::busy, "a layer of one of this machine's disks is being taken", "try again");
    }
    return {};
}

Result<LayerTaken> MachineService::take_layer(const LayerRequest& request) {
    {
        const std::lock_guard lock(snapshot_);
        TRY(check_idle());
        taking_layer_ = true;
    }
    Result<LayerTaken> taken = fail(ErrorKind::system, "the layer ran out of memory");
    try {
        taken = machine_.take_layer(request.disk, request.tag, request.into);
    } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
        // taking_layer_ without an end would block all later snapshots.
    }
    {
        const std::lock_guard lock(snapshot_);
        taking_layer_ = false;
    }
    snapshot_over_.notify_all();
    return taken;
}

Result<std::shared_ptr<MachineService::Job>> MachineService::claim_snapshot() {
    TRY(check_disks_stay(machine_.config().devices));
    const std::lock_guard lock(snapshot_);
    TRY(check_idle());
    job_ = std::make_shared<Job>();
    return job_;
}

Result<SnapshotReport> MachineService::run_snapshot(Job& job, const SnapshotRequest& request) {
    Result<SnapshotReport> result = fail(ErrorKind::system, "the snapshot ran out of memory");
    try {
        result = write_and_then(job, request);
    } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
        // A job without a result would block all later snapshots.
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
        background_.join();  // the job before has its result, so its thread is about to end
    }
    auto thread = start_thread(ThreadRole::snapshot, [this, job, request] { (void)run_snapshot(*job, request); });
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
        status.phase = SnapshotPhase::detaching;  // also before the detach has set its phase
        return status;
    }
    if (!job_) {
        return {};
    }
    SnapshotStatus status = status_of(*job_);
    if (!job_->result) {
        if (status.phase == SnapshotPhase::done) {
            status.phase = SnapshotPhase::draining;  // callers see `done` only once there is a result
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
        return fail(ErrorKind::usage, "no snapshot or detach of this machine is under way");
    }
    job_->monitor.cancel();
    return {};
}

Result<DetachReport> MachineService::detach() {
    const auto detaching = std::make_shared<Watched>();
    {
        const std::lock_guard lock(snapshot_);
        TRY(check_idle());
        detaching_ = detaching;
    }
    Result<DetachReport> result = fail(ErrorKind::system, "the detach ran out of memory");
    try {
        MachineSnapshotSource source(machine_);
        result = detach_snapshot(source, machine_.memory(), &detaching->monitor);
    } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
        // detaching_ without an end would block all later snapshots.
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
    return machine_.balloon().set_target(bytes);
}

Result<BalloonReport> MachineService::balloon_statistics() {
    // A running guest answers within a few of its interrupts. A paused one does not answer.
    constexpr auto kPatience = std::chrono::milliseconds(200);
    virtio::BalloonStatistics statistics = TRY(machine_.balloon().statistics(Clock::now() + kPatience));
    return BalloonReport{TRY(machine_.balloon().status()), statistics};
}

void MachineService::run_ended() {
    const std::lock_guard lock(snapshot_);
    if (job_ && !job_->result && job_->monitor.phase < SnapshotPhase::paused) {
        job_->monitor.cancel();
    }
}

Result<SnapshotReport> MachineService::write_and_then(Job& job, const SnapshotRequest& request) {
    // Checked early: a failure at the pause would already have cost the area its older snapshot.
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
    options.track = request.track || track_snapshots_;
    options.release_free = request.release_free;
    options.history = &history_;
    options.names = names_;
    options.monitor = &job.monitor;
    // The machine is paused or ended while it is still frozen, so that no instruction runs after
    // the snapshot.
    options.keep_frozen = request.then == AfterSnapshot::pause || request.then == AfterSnapshot::stop;
    auto written = write_snapshot(source, request.area, options);
    if (!written && written.error().kind() == ErrorKind::cancelled && outcome()) {
        return ended_error(" before the snapshot was complete");
    }
    SnapshotReport report = TRY(std::move(written));
    report.unrecorded = write_down(machine_.config().devices, request.area.path, report);
    switch (request.then) {
        case AfterSnapshot::as_before: break;
        case AfterSnapshot::run:
            // The run may have ended while the snapshot was committed. The snapshot is valid all
            // the same.
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
    if (request.force) {
        (void)cancel_snapshot();  // the area keeps its last complete snapshot
    } else {
        const auto deadline = Clock::now() + request.timeout;
        {
            std::unique_lock lock(snapshot_);
            snapshot_over_.wait_until(lock, deadline, [this] { return check_idle().has_value(); });
        }
        // A guest that is paused, or does not listen to the button, would only use up the time.
        // One that is paused meanwhile, by a full disk or by a user, does not power off either.
        if (machine_.state() == Machine::State::running && machine_.press_power_button(deadline)) {
            while (Clock::now() < deadline && machine_.state() == Machine::State::running) {
                (void)machine_.wait_ended(std::min(deadline, Clock::now() + kSlice));
            }
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
        const auto line =
            wait_for_line(serial_output(), matcher, deadline, given_up, [this] { return outcome().has_value(); });
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
        // Waits in slices, to notice a client that has hung up. The awaited event ends a slice at
        // once.
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
    return (virtio_terminal_ ? machine_.virtio_console() : machine_.serial()).send(bytes, deadline);
}

Result<std::uint64_t> MachineService::resize_disk(const DiskResize& request) {
    return machine_.resize_disk(request.id, request.bytes, Clock::now() + kDrainLimit);
}

Status MachineService::resize_terminal(TerminalSize size) {
    if (virtio_terminal_) {
        machine_.resize_console(size.columns, size.rows);
    }
    return {};
}

}  // namespace snapvm
