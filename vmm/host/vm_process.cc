// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/vm_process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string_view>
#include <thread>

#include "vmm/api/answers.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/try.h"
#include "vmm/emulate/kernel_mode_repair.h"
#include "vmm/host/fatal_signals.h"

namespace snapvm {
namespace {

using Clock = VmProcess::Clock;

constexpr auto kPlacePeriod = std::chrono::seconds(5);
constexpr auto kFirstRunPatience = std::chrono::seconds(1);
// By then a booting guest has started its drivers; the second is for emulated kernel mode.
constexpr auto kDriverPatience = std::chrono::seconds(30);
constexpr auto kEmulatedDriverPatience = std::chrono::minutes(3);
// After an end that was asked for: how long the process waits for the reader of its output, how
// long it exists at most, and how long while a snapshot makes no progress. A flush, which has none,
// may have to write what the kernel holds back for a slow disk.
constexpr auto kOutputGrace = std::chrono::seconds(2);
constexpr auto kEndLimit = std::chrono::seconds(5);
constexpr auto kSnapshotEndLimit = std::chrono::minutes(10);
constexpr auto kSnapshotSlice = std::chrono::milliseconds(10);

std::uint64_t micros(Clock::duration duration) {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
}

// Returns no descriptor if the line goes to no file.
Result<UniqueFd> open_log(const LineTarget& target) {
    if (target.kind != LineTarget::Kind::file) {
        return UniqueFd();
    }
    // It has the guest's output, so only its owner may read it.
    auto opened = open_file(target.path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (!opened && opened.error().code() == EEXIST) {
        opened = open_file(target.path, O_WRONLY | O_CREAT | O_NONBLOCK, 0600);  // a link may lead to no file yet
        if (!opened && opened.error().code() == ENXIO) {
            opened = open_file(target.path, O_RDWR | O_NONBLOCK);  // a FIFO without a reader
        }
    }
    UniqueFd file = TRY(std::move(opened));
    struct stat info{};
    if (::fstat(file.get(), &info) != 0) {
        return fail(Error::system("fstat", target.path, errno));
    }
    if (S_ISREG(info.st_mode)) {
        if (info.st_uid != ::geteuid()) {
            return fail(ErrorKind::usage,
                        target.path + " belongs to another user (uid " + std::to_string(info.st_uid) + ")",
                        "give this line a file of its own");
        }
        // Another machine's output would be lost, and what it writes later would follow a hole.
        const Status locked = lock_range(file.get(), /*exclusive=*/true, 0, 0, target.path,
                                         "a machine's output goes there", "give this line a file of its own");
        if (!locked && locked.error().kind() == ErrorKind::busy) {
            return fail(locked.error());  // a file system without locks is none of these
        }
        if (::ftruncate(file.get(), 0) != 0) {
            return fail(Error::system("ftruncate", target.path, errno));
        }
    }
    return file;
}

// A line without a file goes to stdout.
int output_fd(const UniqueFd& file) { return file.valid() ? file.get() : STDOUT_FILENO; }

OutputPump::Sink into(std::optional<OutputWriter>& writer) {
    return [&writer = *writer](std::string_view bytes) { return writer.write(bytes); };
}

Outcome failed(Error error) { return {.kind = Outcome::Kind::failed, .code = 0, .error = std::move(error)}; }
std::string outcome_text(const Outcome& outcome) {
    return api::wait_json({.what = WaitFor::exit, .ready_value = 0, .line = {}, .outcome = outcome});
}
void keep_outcome_of_signals(const NameClaim& claim) {
    keep_fatal_outcome(claim.folder_fd(), NameClaim::kOutcome, [](const std::string& message) {
        return outcome_text(failed(Error(ErrorKind::system, message)));
    });
}
Outcome stopped() { return {.kind = Outcome::Kind::stopped, .code = 0, .error = {}}; }
Outcome timed_out() { return {.kind = Outcome::Kind::timed_out, .code = 124, .error = {}}; }

}  // namespace

VmProcess::~VmProcess() {
    if (link_) {
        (void)link_->remove_if(made_link_);
    }
}

std::string VmProcess::default_name() { return "vm-" + std::to_string(::getpid()); }

Result<Outcome> VmProcess::run(const VmProcessEvents& events) {
    InputPump::block_signals();
    TRY(take_place());
    // Everything by path is open now or when the machine is built, before there are threads, unless
    // the machine comes by the API. The guest starts first. The rest of the host's side starts
    // while it runs.
    TRY(start_instance());
    connect(instance_->machine());
    serve();
    if (events.started && server_) {
        if (log_.valid()) {
            ::dup2(log_.get(), STDERR_FILENO);  // before the report, whose reader may read the log
        }
        events.started(report_start());
    }
    Outcome outcome = wait(events);
    if (options_.stderr_to_log) {
        // No process waits for this one. Commands read the outcome when it is gone.
        (void)claim_->keep_outcome(outcome_text(outcome));
    }
    TRY(close());
    if (events.ended) {
        events.ended(report_.name, outcome);
    }
    if (drivers_) {
        drivers_->ended(outcome);
    }
    return outcome;
}

// Takes what can be refused: the name, the API socket, the files of the lines, KVM. A client that
// connects now waits until serve().
Status VmProcess::take_place() {
    opener_ = TRY(HostOpener::take());
    report_.name = options_.name.empty() ? default_name() : options_.name;
    report_.pid = ::getpid();
    report_fatal_signals(report_.name);
    dir_ = TRY(RunDir::find(options_.run_dir));
    claim_.emplace(TRY(NameClaim::take(*dir_, report_.name)));
    report_.api_socket = claim_->folder() + "/api.sock";
    if (options_.stderr_to_log) {
        log_ = claim_->open_log().value_or(UniqueFd());
        keep_outcome_of_signals(*claim_);
    }
    serial_file_ = TRY(open_log(options_.serial));
    console_file_ = TRY(open_log(options_.console));
    serial_writer_.emplace(output_fd(serial_file_));
    console_writer_.emplace(output_fd(console_file_));
    system_.emplace(TRY(kvm::System::open()));
    listener_.emplace(TRY(api::Server::listen(report_.api_socket)));
    return {};
}

Status VmProcess::start_instance() {
    instance_.emplace(InstanceOptions{
        .id = report_.name,
        .loader = [this](const LoadRequest& request) { return load(request); },
        .names = [dir = *dir_](int pid) { return dir.machine_of(pid); },
        .stopped = [this] { end_soon(); },
        .virtio_terminal = options_.console.kind == LineTarget::Kind::stdio || options_.virtio_terminal});
    BuiltMachine built;
    if (options_.build) {
        built = TRY(options_.build(*system_));
        TRY(check_console(*built.machine));
        name_snapshot_of(built.machine->memory());
        report_.map_us = built.map_us;
        report_.shared = built.shared;
    }
    // A machine that cannot be built must not take the link of one that runs.
    if (!options_.api_socket.empty()) {
        TRY(link_socket());
    }
    complete_ = Clock::now();
    report_.state_us = micros(complete_ - options_.start);
    return built.machine ? instance_->start(std::move(built.machine), !options_.start_paused) : Status();
}

Status VmProcess::check_console(const Machine& machine) const {
    const bool uses_console = options_.console.kind != LineTarget::Kind::none || options_.virtio_terminal;
    if (uses_console && !machine.config().devices.console) {
        return fail(ErrorKind::usage, "the machine in the snapshot has no virtio console", "leave --console out");
    }
    return {};
}

Result<std::unique_ptr<Machine>> VmProcess::load(const LoadRequest& request) {
    BuiltMachine built = TRY(restore_machine(*system_, request.restore, options_.setup));
    TRY(check_console(*built.machine));
    name_snapshot_of(built.machine->memory());
    lost_ = std::move(built.lost);
    return std::move(built.machine);
}

// Connects the process to the machine; without one, to signals only.
void VmProcess::connect(Machine* machine) {
    Line* typed = nullptr;
    if (machine != nullptr) {
        typed = options_.serial.kind == LineTarget::Kind::stdio    ? &machine->serial()
                : options_.console.kind == LineTarget::Kind::stdio ? &machine->virtio_console()
                                                                   : nullptr;
    }
    input_.reset();
    // Input before the rest: a guest may be waiting for a byte that is on stdin already.
    const auto signalled = [this] {
        instance_->end(stopped());
        end_soon();
    };
    input_ = or_end(InputPump::start(signalled, typed));
    if (machine != nullptr) {
        connect_output(*machine);
    }
}

void VmProcess::connect_output(Machine& machine) {
    if (options_.serial.kind != LineTarget::Kind::none) {
        output_ = or_end(OutputPump::start(machine.serial(), into(serial_writer_)));
    }
    if (options_.console.kind != LineTarget::Kind::none) {
        console_output_ = or_end(OutputPump::start(machine.virtio_console(), into(console_writer_)));
    }
}

// The guest runs already, so an error ends the run, and is reported as its outcome.
template <class Pump>
std::unique_ptr<Pump> VmProcess::or_end(Result<std::unique_ptr<Pump>> pump) {
    if (!pump) {
        instance_->end(failed(pump.error()));
        return nullptr;
    }
    return *std::move(pump);
}

void VmProcess::serve() {
    server_ = or_end(api::Server::start(*std::move(listener_), *instance_));
    listener_.reset();
}

Status VmProcess::link_socket() {
    auto link = FolderEntry::of(options_.api_socket);
    const auto refused = [&](int error) {
        return fail(Error::system("symlink", options_.api_socket, error, "choose another --api-socket"));
    };
    if (!link) {
        return refused(link.error().code());
    }
    const auto make = [&] {
        return ::symlinkat(report_.api_socket.c_str(), link->folder(), link->name().c_str()) == 0;
    };
    if (!make()) {
        if (errno != EEXIST) {
            return refused(errno);
        }
        TRY(remove_stale_socket(*link, options_.api_socket, "another --api-socket"));
        if (!make()) {
            return refused(errno);
        }
    }
    made_link_ = TRY(link->hold());
    link_ = *std::move(link);
    return {};
}

StartReport VmProcess::report_start() {
    report_.total_us = report_.state_us;
    Machine* const machine = options_.build && !options_.start_paused ? instance_->machine() : nullptr;
    if (machine != nullptr) {
        const auto first = machine->wait_first_run(Clock::now() + kFirstRunPatience);
        const Clock::time_point ran = first.value_or(Clock::now());
        report_.first_run_us = micros(ran - complete_);
        report_.total_us = micros(ran - options_.start);
        if (const std::optional<bool> set = machine->tsc_was_set()) {
            report_.tsc = *set ? "set" : "host";
        }
    }
    return report_;
}

// Waits in slices, and looks after each whether other commands still find the machine.
template <class Wait>
std::invoke_result_t<const Wait&, Clock::time_point> VmProcess::wait_in_place(Clock::time_point deadline,
                                                                              const VmProcessEvents& events,
                                                                              const Wait& wait_until) {
    while (true) {
        const Clock::time_point slice = std::min(deadline, Clock::now() + kPlacePeriod);
        if (auto found = wait_until(slice); found || slice == deadline) {
            return found;
        }
        if (const Status kept = keep_place(); !kept && !place_lost_) {
            place_lost_ = true;
            if (events.hint) {
                events.hint(report_.name,
                            "its run folder was removed, and no command finds it: " + kept.error().message());
            }
        }
    }
}

Outcome VmProcess::wait(const VmProcessEvents& events) {
    const auto deadline = options_.timeout ? options_.start + *options_.timeout : Clock::time_point::max();
    std::optional<Outcome> outcome;
    (void)wait_in_place(deadline, events, [this](Clock::time_point slice) {
        return instance_->wait_machine(slice) != nullptr || instance_->wait_ended(Clock::now()).has_value();
    });
    if (Machine* const machine = instance_->machine()) {
        if (!options_.build) {
            connect(machine);
            if (events.hint && !lost_.empty()) {
                events.hint(report_.name, "warning: " + lost_);
            }
        } else if (options_.boots && events.hint) {
            drivers_.emplace(*machine, [&](const std::string& hint) { events.hint(report_.name, hint); });
        }
        if (events.hint) {
            machine->on_own_pause([hint = events.hint, name = report_.name](const Error& why) {
                hint(name, why.what() + ": the guest is paused; " + why.advice() + ", then: snapvm resume " + name);
            });
        }
        outcome = wait_in_place(deadline, events,
                                [&](Clock::time_point slice) { return wait_machine_ended(*machine, slice); });
    } else {
        outcome = instance_->wait_ended(Clock::now());
    }
    if (!outcome) {
        instance_->end(timed_out());
        outcome = instance_->wait_ended(Clock::time_point::max());
        end_soon();
    }
    instance_->run_ended();
    return *outcome;
}

// Makes anew what was removed from the run folder. Without it the machine is in no list and cannot
// be stopped by its name, and holds its disks. A second server takes the new socket: clients
// of the first one go on.
Status VmProcess::keep_place() {
    if (!claim_->is_in_place()) {
        claim_.emplace(TRY(NameClaim::take(*dir_, report_.name)));
        if (log_.valid()) {
            keep_outcome_of_signals(*claim_);
            log_ = claim_->open_log().value_or(UniqueFd());
            ::dup2(log_.get(), STDERR_FILENO);
        }
    }
    if (!claim_->has_socket()) {
        more_servers_.push_back(TRY(api::Server::start(report_.api_socket, *instance_)));
    }
    return {};
}

std::optional<Outcome> VmProcess::wait_machine_ended(Machine& machine, Clock::time_point deadline) {
    const std::chrono::seconds patience =
        emulate::kernel_mode_is_emulated() ? kEmulatedDriverPatience : kDriverPatience;
    return drivers_ ? drivers_->wait_ended(patience, deadline) : machine.wait_ended(deadline);
}

// Returns a number that changes as long as a snapshot or a detach gets on, or nothing if there is
// none.
std::optional<std::uint64_t> VmProcess::snapshot_progress() const {
    const SnapshotStatus status = instance_->snapshot_status();
    if (!status.phase || *status.phase == SnapshotPhase::done) {
        return std::nullopt;
    }
    return status.written_bytes + status.round_done + static_cast<std::uint64_t>(*status.phase);
}

// Limits what is left of the process. The run has ended.
void VmProcess::end_soon() {
    const auto outcome = instance_->wait_ended(Clock::now());
    end_limit_.set({.rest = kEndLimit, .snapshot = kSnapshotEndLimit}, outcome ? outcome->exit_code() : 0,
                   [this] { return snapshot_progress(); });
    serial_writer_->give_up_at(Clock::now() + kOutputGrace);
    console_writer_->give_up_at(Clock::now() + kOutputGrace);
}

Status VmProcess::close() {
    Status paused;
    if (Machine* const machine = instance_->machine()) {
        // The vCPUs are paused before the consoles are closed, so that nothing is written
        // afterwards.
        paused = machine->pause();
        machine->stop_input();
        machine->serial().output().close();
        machine->virtio_console().output().close();
        output_.reset();
        console_output_.reset();
    }
    if (server_) {
        server_->stop();
    }
    more_servers_.clear();
    end_soon();  // all output is written; what is left waits for disks only
    while (snapshot_progress()) {
        std::this_thread::sleep_for(kSnapshotSlice);
    }
    end_limit_.forget_progress();
    input_.reset();
    return paused;
}

}  // namespace snapvm
