// SPDX-License-Identifier: Apache-2.0
// A machine's whole stay on the host: its name, API socket, serial port, signals, timeout, and its end. `run` and `restore` differ
// only in how the machine is built.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/host_options.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {

using Clock = std::chrono::steady_clock;

/// What `restore --share` has done.
struct SharedMemory {
    std::uint64_t runs = 0;
    std::uint64_t pages = 0;
};

/// What a new machine tells whoever started it. Times count from the start of the command.
struct StartReport {
    std::string name;
    int pid = 0;
    std::string api_socket;
    std::uint64_t map_us = 0;        ///< restore: memory mapped
    std::uint64_t state_us = 0;      ///< the machine is complete
    std::uint64_t first_run_us = 0;  ///< from there until the guest has executed an instruction
    std::uint64_t total_us = 0;      ///< from the start until then

    std::optional<SharedMemory> shared;  ///< restore --share
    std::string tsc;  ///< restore, once it runs: "set", or "host" where KVM cannot set it and only kvmclock is as asked

    [[nodiscard]] std::string json() const;
};

/// A machine as its builder hands it over.
struct BuiltMachine {
    std::unique_ptr<Machine> machine;
    std::uint64_t map_us = 0;
    std::optional<SharedMemory> shared = {};
};

struct HostedRun {
    HostOptions options;
    Globals globals;
    Clock::time_point start = Clock::now();
    bool start_paused = false;
    bool boots = false;  ///< and has not come out of a snapshot: its guest is yet to find its devices
    /// Builds the machine, in its own process; `clone` is its number where there are many, else 0.
    std::function<Result<BuiltMachine>(const kvm::System&, unsigned clone)> build;

    /// Runs it to its end in this process and returns the exit code; with `detach`, leaves it running in another process and returns 0 as soon as it
    /// runs. With a terminal on stdin it runs in another process too, and this one is its console.
    Result<int> run();
    /// `count` machines, each in a process of its own, named NAME-0 and on; or NAME with their numbers where that has "{i}".
    Result<int> run_many(unsigned count);

private:
    Result<int> run_here(const std::function<void(const StartReport&)>& started);
    Result<StartReport> spawn(const std::string& name);

    unsigned clone_ = 0;
};

}  // namespace snapvm::cli
