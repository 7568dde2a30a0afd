// SPDX-License-Identifier: Apache-2.0
// Where running machines are found: a folder with one folder a machine, named after it, holding its API socket.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm::cli {

/// `$XDG_RUNTIME_DIR/snapvm`, `/run/snapvm` for root, or what `--run-dir` says. Folders are 0700.
class RunDir {
public:
    /// The path only; nothing is created.
    static Result<RunDir> find(const std::string& override_path);

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string folder_of(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] std::string socket_of(const std::string& name) const { return folder_of(name) + "/api.sock"; }
    /// What a detached machine says on its stderr.
    [[nodiscard]] std::string log_of(const std::string& name) const { return folder_of(name) + "/log"; }
    /// Machines that run now (whose lock is held), sorted. A folder whose owner is gone is not listed.
    Result<std::vector<std::string>> running() const;
    [[nodiscard]] bool is_running(const std::string& name) const;
    /// Waits until no machine of that name runs: the name, and what the machine held, is free when its process is gone.
    Status wait_gone(const std::string& name, std::chrono::steady_clock::time_point deadline) const;
    /// The machine that a process runs; empty when it runs none that is found here.
    [[nodiscard]] std::string machine_of(int pid) const;

private:
    explicit RunDir(std::string path) : path_(std::move(path)) {}
    std::string path_;
};

/// A machine's claim on its name, for as long as it lives: a locked file in the machine's folder, with its process' number in it. The
/// kernel drops the lock with the process, however it ends, so no name is ever stuck.
class NameClaim {
public:
    /// Busy when a machine of that name runs. Names are 1 to 64 of [A-Za-z0-9_.-], not starting with a dot or a dash.
    static Result<NameClaim> take(const RunDir& dir, const std::string& name);
    NameClaim(NameClaim&&) = default;
    NameClaim& operator=(NameClaim&&) = default;
    /// Removes the folder; but a log that says something stays until the next machine of that name.
    ~NameClaim();

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const std::string& folder() const { return folder_; }

private:
    NameClaim(std::string name, std::string folder, UniqueFd lock)
        : name_(std::move(name)), folder_(std::move(folder)), lock_(std::move(lock)) {}
    std::string name_;
    std::string folder_;
    UniqueFd lock_;
};

}  // namespace snapvm::cli
