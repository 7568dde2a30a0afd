// SPDX-License-Identifier: Apache-2.0
// Runs an instance on the host to its end, with its name, API socket, lines, signals and timeout.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "vmm/api/server.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"
#include "vmm/base/unix_socket.h"
#include "vmm/control/instance.h"
#include "vmm/control/output_pump.h"
#include "vmm/control/restore_machine.h"
#include "vmm/host/driver_hint.h"
#include "vmm/host/end_limit.h"
#include "vmm/host/input_pump.h"
#include "vmm/host/line_target.h"
#include "vmm/host/opener.h"
#include "vmm/host/output_writer.h"
#include "vmm/host/run_dir.h"
#include "vmm/host/start_report.h"
#include "vmm/kvm/system.h"

namespace snapvm {

struct VmProcessOptions {
    std::string run_dir;     ///< as for RunDir::find
    std::string name;        ///< empty: vm-PID
    std::string api_socket;  ///< one more path of the API socket, a symbolic link; empty: none
    LineTarget serial;
    LineTarget console;
    bool virtio_terminal = false;  ///< InstanceOptions::virtio_terminal, also if the console is not on stdio
    std::optional<std::chrono::microseconds> timeout = {};  ///< the run ends so long after `start`
    HostSetup setup = {};                                   ///< of machines that the API loads
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    bool start_paused = false;
    bool stderr_to_log = false;  ///< once it has started, its stderr is its log (RunDir::log_of), if that can be opened
    bool boots = false;  ///< the guest boots, so its drivers have yet to find the devices; false after a restore
    /// Builds the machine, in its own process. Without it the instance waits for PUT
    /// /snapshot/load.
    std::function<Result<BuiltMachine>(const kvm::System&)> build = {};
};

/// What the process tells while it runs, on the thread that calls run(); a hint, on any thread.
struct VmProcessEvents {
    /// The machine runs (it is complete, if it starts paused), or the instance waits for one. The
    /// API answers.
    std::function<void(const StartReport&)> started = {};
    /// A line for the user: about a guest that uses none of its virtio devices (driver_hint.h),
    /// about a machine that has paused itself (Machine::pause_reason), or about a damaged older
    /// snapshot (BuiltMachine::lost) of a machine that the API has loaded.
    std::function<void(const std::string& name, const std::string& hint)> hint = {};
    /// The run has ended. The name is still taken, so that a log is complete before it is free.
    std::function<void(const std::string& name, const Outcome&)> ended = {};
};

/// One run of an instance in this process, or in one that spawn() makes of it. Used once.
class VmProcess {
public:
    using Clock = std::chrono::steady_clock;

    explicit VmProcess(VmProcessOptions options) : options_(std::move(options)) {}
    /// Removes the second path of the API socket.
    ~VmProcess();
    VmProcess(const VmProcess&) = delete;
    VmProcess& operator=(const VmProcess&) = delete;

    /// Runs the instance to its end in this process and returns how that was. Once an end was
    /// asked for (a signal, a stop, the timeout), output that nobody reads is dropped after 2
    /// seconds, and the process ends after 5, or when a snapshot has made no progress for ten
    /// minutes.
    /// After an end by the guest, it waits for the reader of its output until an end is asked for.
    ///
    /// Must be called before any thread is started, since it blocks signals. Fails if there is no
    /// machine to run; what fails once the guest runs ends the run, and is its outcome. The name is
    /// free when the object is destroyed.
    Result<Outcome> run(const VmProcessEvents& events);

    /// Returns the name by default: vm-PID.
    [[nodiscard]] static std::string default_name();

private:
    Status take_place();
    Status start_instance();
    Status check_console(const Machine& machine) const;
    Result<std::unique_ptr<Machine>> load(const LoadRequest& request);
    void connect(Machine* machine);
    void connect_output(Machine& machine);
    template <class Pump>
    std::unique_ptr<Pump> or_end(Result<std::unique_ptr<Pump>> pump);
    void serve();
    Status link_socket();
    StartReport report_start();
    Outcome wait(const VmProcessEvents& events);
    template <class Wait>
    std::invoke_result_t<const Wait&, Clock::time_point> wait_in_place(Clock::time_point deadline,
                                                                       const VmProcessEvents& events,
                                                                       const Wait& wait_until);
    Status keep_place();
    std::optional<Outcome> wait_machine_ended(Machine& machine, Clock::time_point deadline);
    [[nodiscard]] std::optional<std::uint64_t> snapshot_progress() const;
    void end_soon();
    Status close();

    VmProcessOptions options_;
    StartReport report_;
    Clock::time_point complete_;
    // Members are destroyed from the bottom up: what uses the instance before it, then the name,
    // and last what opens.
    std::unique_ptr<HostOpener> opener_;
    EndLimit end_limit_;  ///< holds while the members below are destroyed
    std::optional<RunDir> dir_;
    std::optional<NameClaim> claim_;
    std::optional<Listener> listener_;  ///< of the API, until serve()
    std::optional<FolderEntry> link_;  ///< VmProcessOptions::api_socket, once it is there
    UniqueFd made_link_;  ///< of the link's inode, since another process may replace the link
    UniqueFd log_;
    UniqueFd serial_file_;
    UniqueFd console_file_;
    std::optional<OutputWriter> serial_writer_;
    std::optional<OutputWriter> console_writer_;
    std::optional<kvm::System> system_;
    std::optional<Instance> instance_;
    std::unique_ptr<InputPump> input_;
    std::unique_ptr<OutputPump> output_;
    std::unique_ptr<OutputPump> console_output_;
    std::unique_ptr<api::Server> server_;
    std::vector<std::unique_ptr<api::Server>> more_servers_;  ///< on sockets that replace one that was removed
    bool place_lost_ = false;
    std::string lost_;  ///< BuiltMachine::lost of a machine that the API has loaded
    std::optional<DriverHint<Machine>> drivers_;
};

}  // namespace snapvm
