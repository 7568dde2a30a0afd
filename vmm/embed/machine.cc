// SPDX-License-Identifier: Apache-2.0
#include <snapvm/machine.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <span>
#include <utility>

#include "vmm/base/try.h"
#include "vmm/control/guest_files.h"
#include "vmm/control/machine_service.h"
#include "vmm/control/output_pump.h"
#include "vmm/control/restore_machine.h"
#include "vmm/embed/host_impl.h"
#include "vmm/embed/translate.h"

namespace snapvm::embed {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// Longer than any wait, and short enough that a clock's now() plus it does not overflow.
constexpr milliseconds kLongest = std::chrono::years(100);

milliseconds bounded(milliseconds timeout) { return std::clamp(timeout, milliseconds(0), kLongest); }
Clock::time_point deadline_of(milliseconds timeout) { return Clock::now() + bounded(timeout); }

}  // namespace

struct Machine::Impl {
    Impl(std::shared_ptr<const Host::Impl> kvm, BuiltMachine built, Clock::time_point began)
        : host(std::move(kvm)),
          machine(std::move(built.machine)),
          lost(std::move(built.lost)),
          map(built.map_us),
          state(duration_cast<microseconds>(Clock::now() - began)) {}
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    // Ends the run and the thread that calls a callback, which may use the machine until then. All
    // that the callback may wait for ends before. The vCPUs stand still before the line is closed,
    // so that nothing is written afterwards.
    void close() {
        machine->end({.kind = snapvm::Outcome::Kind::stopped, .code = 0, .error = {}});
        service.run_ended();
        (void)machine->pause();  // a run that has ended waits for no disk
        machine->stop_input();
        machine->serial().output().close();
        pump.reset();
    }

    // Members are destroyed from the bottom up.
    const std::shared_ptr<const Host::Impl> host;
    const std::unique_ptr<snapvm::Machine> machine;
    MachineService service{*machine, "NAME"};  // for advice such as "snapvm snapshot-cancel NAME"
    const std::string lost;
    const microseconds map;
    const microseconds state;
    std::atomic<Clock::rep> first_resume = 0;
    std::mutex callback;  ///< guards has_callback and the start of pump
    bool has_callback = false;
    std::unique_ptr<OutputPump> pump;
};

Machine::Machine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Machine::Machine(Machine&& other) noexcept = default;
// The old machine stays in its place until its callback has returned for the last time.
Machine& Machine::operator=(Machine&& other) noexcept {
    if (this != &other) {
        if (impl_) {
            impl_->close();
        }
        impl_ = std::move(other.impl_);
    }
    return *this;
}
Machine::~Machine() {
    if (impl_) {
        impl_->close();
    }
}

Result<Machine> Machine::create(const Host& host, const MachineConfig& config) {
    const Clock::time_point began = Clock::now();
    const snapvm::MachineConfig wanted = TRY(to_internal(config));
    const GuestFiles files = TRY(GuestFiles::open(wanted));
    BuiltMachine built{TRY(snapvm::Machine::create(host.impl_->system, wanted, files.source())), 0};
    return Machine(std::make_unique<Impl>(host.impl_, std::move(built), began));
}

Result<Machine> Machine::restore(const Host& host, const Area& area, const RestoreOptions& options) {
    const Clock::time_point began = Clock::now();
    BuiltMachine built = TRY(restore_machine(host.impl_->system, TRY(to_internal(area, options)), {}));
    return Machine(std::make_unique<Impl>(host.impl_, std::move(built), began));
}

State Machine::state() const { return to_public(impl_->service.state()); }
std::optional<Error> Machine::pause_reason() const { return impl_->machine->pause_reason(); }
const std::string& Machine::lost_snapshot() const { return impl_->lost; }

Status Machine::resume() {
    Clock::rep none = 0;
    impl_->first_resume.compare_exchange_strong(none, Clock::now().time_since_epoch().count());
    return impl_->service.resume();
}

Status Machine::pause() { return impl_->service.pause(); }

Outcome Machine::stop(milliseconds timeout) {
    (void)impl_->service.stop({.force = timeout <= milliseconds(0), .timeout = bounded(timeout)});
    impl_->service.run_ended();
    return to_public(*impl_->machine->wait_ended(Clock::time_point::max()));
}

std::optional<Outcome> Machine::wait_ended(milliseconds timeout) const {
    const std::optional<snapvm::Outcome> outcome = impl_->machine->wait_ended(deadline_of(timeout));
    return outcome ? std::optional(to_public(*outcome)) : std::nullopt;
}

Result<bool> Machine::wait_ready(milliseconds timeout) {
    return TRY(impl_->service.wait({.what = WaitFor::ready, .regex = {}, .timeout = bounded(timeout)}, {})).has_value();
}

Result<std::optional<std::string>> Machine::wait_line(const std::string& pattern, milliseconds timeout) {
    std::optional<WaitResult> found =
        TRY(impl_->service.wait({.what = WaitFor::serial, .regex = pattern, .timeout = bounded(timeout)}, {}));
    return found ? std::optional(std::move(found->line)) : std::nullopt;
}

Status Machine::on_serial_output(std::function<void(std::string_view)> receive) {
    const std::lock_guard lock(impl_->callback);
    if (impl_->has_callback) {
        return fail(ErrorKind::usage, "the serial port has a callback already", "give one, and divide its bytes there");
    }
    const auto sink = [receive = std::move(receive)](std::string_view bytes) {
        receive(bytes);
        return true;
    };
    impl_->pump = TRY(OutputPump::start(impl_->machine->serial(), sink));
    impl_->has_callback = true;
    return {};
}

SerialOutput Machine::read_serial(std::uint64_t position, milliseconds timeout) const {
    constexpr auto kSlice = milliseconds(20);
    const Clock::time_point deadline = deadline_of(timeout);
    while (true) {
        const Clock::time_point now = Clock::now();
        // Looked at before the read, which then finds all that was written until then.
        const bool last = now >= deadline || impl_->machine->wait_ended(now);
        Console::Chunk chunk =
            impl_->machine->serial().output().read(position, last ? now : std::min(deadline, now + kSlice));
        if (last || !chunk.bytes.empty()) {
            return {.bytes = std::move(chunk.bytes), .next = chunk.next};
        }
    }
}

std::size_t Machine::send_serial(std::string_view bytes, milliseconds timeout) {
    if (impl_->machine->wait_ended(Clock::now())) {
        return 0;
    }
    const std::span all(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    return impl_->service.send_input(all, deadline_of(timeout));
}

Result<SnapshotReport> Machine::snapshot(const Area& area, const SnapshotOptions& options) {
    return to_public(TRY(impl_->service.snapshot(TRY(to_internal(area, options)))));
}

Status Machine::cancel_snapshot() { return impl_->service.cancel_snapshot(); }

std::optional<StartTimes> Machine::start_times(milliseconds timeout) {
    const auto ran = impl_->machine->wait_first_run(deadline_of(timeout));
    if (!ran) {
        return std::nullopt;
    }
    const Clock::time_point resumed{Clock::duration(impl_->first_resume.load())};
    const auto first_run = duration_cast<microseconds>(*ran - resumed);
    return StartTimes{
        .map = impl_->map, .state = impl_->state, .first_run = first_run, .total = impl_->state + first_run};
}

Statistics Machine::statistics() const { return to_public(impl_->service.stats()); }

Result<Balloon> Machine::balloon() const {
    const BalloonStatus status = TRY(impl_->service.balloon());
    return Balloon{.target_bytes = status.target_bytes, .actual_bytes = status.actual_bytes};
}

Status Machine::set_balloon(std::uint64_t target_bytes) { return impl_->service.set_balloon(target_bytes); }

}  // namespace snapvm::embed
