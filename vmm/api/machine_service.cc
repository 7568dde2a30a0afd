// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/machine_service.h"

#include <unistd.h>

#include "vmm/api/line_matcher.h"
#include "vmm/api/machine_source.h"
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
    return {.id = id_,
            .state = state(),
            .pid = static_cast<std::uint32_t>(::getpid()),
            .uptime_us =
                static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - made_).count()),
            .memory_bytes = config().memory_bytes,
            .cpus = config().cpus,
            .exits = machine.exits,
            .ready = machine.ready,
            .ready_value = machine.ready_value,
            .mark = machine.mark,
            .marks = machine.marks,
            .serial_bytes = console().end(),
            .outcome = outcome()};
}

Status MachineService::pause() {
    if (outcome()) {
        return ended_error("");
    }
    return machine_.pause();
}

Status MachineService::resume() { return machine_.resume(); }

Result<SnapshotReport> MachineService::snapshot(const SnapshotRequest& request) {
    const std::unique_lock one_at_a_time(snapshot_, std::try_to_lock);
    if (!one_at_a_time) {
        return fail(ErrorKind::busy, "a snapshot of this machine is being written already", "try again when it is done");
    }
    MachineSnapshotSource source(machine_);
    WriteOptions options;
    options.metadata = request.metadata;
    options.cache = request.cache;
    // Paused or ended while still frozen: not one instruction runs after the snapshot.
    options.keep_frozen = request.then == AfterSnapshot::pause || request.then == AfterSnapshot::stop;
    SnapshotReport report = TRY(write_snapshot(source, request.area, options));
    switch (request.then) {
        case AfterSnapshot::as_before: break;
        case AfterSnapshot::run: TRY(machine_.resume()); break;
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
    // There is no power button yet that a guest could be asked by, so a friendly stop differs in one thing: it waits for a
    // snapshot.
    std::unique_lock no_snapshot(snapshot_, std::defer_lock);
    if (!request.force) {
        (void)no_snapshot.try_lock_for(request.timeout);
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
    return machine_.send_input(bytes, deadline);
}

}  // namespace snapvm::api
