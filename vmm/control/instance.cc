// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/instance.h"

#include <unistd.h>

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr auto kSlice = std::chrono::milliseconds(20);

}  // namespace

class Instance::Vacancy {
public:
    static Result<Vacancy> claim(Instance& instance) {
        const std::lock_guard lock(instance.mutex_);
        if (instance.service_) {
            return fail(wrong_state(instance.service_->state(), {}));
        }
        if (instance.outcome_) {
            return fail(wrong_state(ServiceState::ended, instance.outcome_));
        }
        if (instance.filling_) {
            return fail(ErrorKind::busy, "a snapshot is being loaded already", "wait until it is, or has failed");
        }
        instance.filling_ = true;
        return Vacancy(instance);
    }
    Vacancy(Vacancy&& other) noexcept : instance_(std::exchange(other.instance_, nullptr)) {}
    Vacancy& operator=(Vacancy&&) = delete;
    ~Vacancy() {
        if (instance_ != nullptr) {
            const std::lock_guard lock(instance_->mutex_);
            instance_->filling_ = false;
        }
    }

private:
    explicit Vacancy(Instance& instance) : instance_(&instance) {}
    Instance* instance_;
};

Status Instance::start(std::unique_ptr<Machine> machine, bool run) {
    const Vacancy vacancy = TRY(Vacancy::claim(*this));
    return take(std::move(machine), run, /*track=*/false);
}

Status Instance::load(const LoadRequest& request) {
    const Vacancy vacancy = TRY(Vacancy::claim(*this));
    return take(TRY(options_.loader(request)), request.resume, request.track);
}

// Runs the machine before anyone sees it, so that one that does not run leaves nothing behind.
Status Instance::take(std::unique_ptr<Machine> machine, bool run, bool track) {
    auto service = std::make_unique<MachineService>(*machine, options_.id, options_.names);
    if (options_.virtio_terminal) {
        service->use_virtio_terminal();
    }
    if (track) {
        service->track_snapshots();
    }
    if (run) {
        TRY(machine->resume());
    }
    {
        const std::lock_guard lock(mutex_);
        if (outcome_) {
            return fail(wrong_state(ServiceState::ended, outcome_));
        }
        machine_ = std::move(machine);
        service_ = std::move(service);
    }
    changed_.notify_all();
    return {};
}

Machine* Instance::machine() const {
    const std::lock_guard lock(mutex_);
    return machine_.get();
}

Machine* Instance::wait_machine(Clock::time_point deadline) const {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [this] { return machine_ || outcome_; });
    return machine_.get();
}

void Instance::end(const Outcome& outcome) {
    {
        const std::lock_guard lock(mutex_);
        if (!machine_ && !outcome_) {
            outcome_ = outcome;
        }
    }
    if (Machine* const ours = machine()) {
        ours->end(outcome);
    }
    changed_.notify_all();
}

std::optional<Outcome> Instance::wait_ended(Clock::time_point deadline) const {
    if (const Machine* const ours = wait_machine(deadline)) {
        return ours->wait_ended(deadline);
    }
    const std::lock_guard lock(mutex_);
    return outcome_;
}

void Instance::run_ended() {
    if (MachineService* const ours = find()) {
        ours->run_ended();
    }
}

MachineService* Instance::find() const {
    const std::lock_guard lock(mutex_);
    return service_.get();
}

Result<MachineService*> Instance::service() const {
    const std::lock_guard lock(mutex_);
    if (!service_) {
        return fail(wrong_state(outcome_ ? ServiceState::ended : ServiceState::not_started, outcome_));
    }
    return service_.get();
}

ServiceState Instance::state() const {
    if (const MachineService* const ours = find()) {
        return ours->state();
    }
    const std::lock_guard lock(mutex_);
    return outcome_ ? ServiceState::ended : ServiceState::not_started;
}

std::string Instance::pause_reason() const {
    const MachineService* const ours = find();
    return ours != nullptr ? ours->pause_reason() : std::string();
}

ServiceStats Instance::stats() const {
    if (const MachineService* const ours = find()) {
        return ours->stats();
    }
    ServiceStats stats;
    stats.id = options_.id;
    stats.state = state();
    stats.pid = static_cast<std::uint32_t>(::getpid());
    stats.uptime_us = uptime_.us();
    stats.outcome = wait_ended(Clock::now());
    return stats;
}

SnapshotStatus Instance::snapshot_status() const {
    const MachineService* const ours = find();
    return ours != nullptr ? ours->snapshot_status() : SnapshotStatus{};
}

Result<Outcome> Instance::stop(const StopRequest& request) {
    Result<Outcome> outcome = stop_run(request);
    if (outcome && options_.stopped) {
        options_.stopped();
    }
    return outcome;
}

Result<Outcome> Instance::stop_run(const StopRequest& request) {
    if (MachineService* const ours = find()) {
        return ours->stop(request);
    }
    end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    return *wait_ended(Clock::now());
}

Result<std::optional<WaitResult>> Instance::wait(const WaitRequest& request, const GivenUp& given_up) {
    if (MachineService* const ours = find()) {
        return ours->wait(request, given_up);
    }
    const auto deadline = Clock::now() + request.timeout;
    while (wait_machine(std::min(deadline, Clock::now() + kSlice)) == nullptr) {
        if (const auto outcome = wait_ended(Clock::now())) {
            if (request.what != WaitFor::exit) {
                return fail(wrong_state(ServiceState::ended, outcome));
            }
            return WaitResult{.what = request.what, .ready_value = 0, .line = {}, .outcome = *outcome};
        }
        if (Clock::now() >= deadline || (given_up && given_up())) {
            return std::nullopt;
        }
    }
    WaitRequest rest = request;
    rest.timeout =
        std::max(std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()), std::chrono::milliseconds(0));
    return TRY(service())->wait(rest, given_up);
}

std::size_t Instance::send_input(std::span<const std::uint8_t> bytes, Clock::time_point deadline) {
    MachineService* const ours = find();
    return ours != nullptr ? ours->send_input(bytes, deadline) : 0;
}

Result<MachineConfig> Instance::config() const { return TRY(service())->config(); }
Result<std::vector<std::uint64_t>> Instance::disk_bytes() const { return TRY(service())->disk_bytes(); }
Result<std::uint64_t> Instance::resize_disk(const DiskResize& request) { return TRY(service())->resize_disk(request); }
Status Instance::pause() { return TRY(service())->pause(); }
Status Instance::resume() { return TRY(service())->resume(); }
Result<SnapshotReport> Instance::snapshot(const SnapshotRequest& request) { return TRY(service())->snapshot(request); }
Status Instance::start_snapshot(const SnapshotRequest& request) { return TRY(service())->start_snapshot(request); }
Status Instance::cancel_snapshot() { return TRY(service())->cancel_snapshot(); }
Result<DetachReport> Instance::detach() { return TRY(service())->detach(); }
Result<LayerTaken> Instance::take_layer(const LayerRequest& request) { return TRY(service())->take_layer(request); }
Result<BalloonStatus> Instance::balloon() const { return TRY(service())->balloon(); }
Status Instance::set_balloon(std::uint64_t bytes) { return TRY(service())->set_balloon(bytes); }
Status Instance::set_balloon_polling(std::uint16_t seconds) { return TRY(service())->set_balloon_polling(seconds); }
Result<BalloonReport> Instance::balloon_statistics() { return TRY(service())->balloon_statistics(); }
Result<const Console*> Instance::terminal() const { return TRY(service())->terminal(); }
Status Instance::resize_terminal(TerminalSize size) { return TRY(service())->resize_terminal(size); }

}  // namespace snapvm
