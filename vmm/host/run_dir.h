// SPDX-License-Identifier: Apache-2.0
// The folder of the running machines. Each machine has a folder of its name in it, with its API
// socket, its lock and its log.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// The path is `$XDG_RUNTIME_DIR/snapvm`, `/run/snapvm` for root, or the value of `--run-dir`.
/// Folders have mode 0700.
class RunDir {
public:
    /// Determines the path; creates nothing. Fails with usage if XDG_RUNTIME_DIR is needed and not
    /// set.
    static Result<RunDir> find(const std::string& override_path);

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string folder_of(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] std::string socket_of(const std::string& name) const { return folder_of(name) + "/api.sock"; }
    /// Returns the path of the file that a detached machine's stderr goes to.
    [[nodiscard]] std::string log_of(const std::string& name) const { return folder_of(name) + "/log"; }
    /// Returns the names of the machines that run now (whose lock is held), sorted. Skips folders
    /// whose owner is gone.
    Result<std::vector<std::string>> running() const;
    [[nodiscard]] bool is_running(const std::string& name) const;
    /// Waits until no machine of that name runs. Its name, and what it held, are free once its
    /// process has ended. Fails with system at the deadline.
    Status wait_gone(const std::string& name, std::chrono::steady_clock::time_point deadline) const;
    /// Returns the name of the machine that a process runs, or an empty string if it runs none of
    /// this folder.
    [[nodiscard]] std::string machine_of(int pid) const;

private:
    explicit RunDir(std::string path) : path_(std::move(path)) {}
    std::string path_;
};

/// A machine's claim on its name, for the lifetime of the object. It is a locked file in the
/// machine's folder that contains the process' number. The kernel drops the lock when the process
/// ends in any way, so a name cannot stay taken.
class NameClaim {
public:
    /// Takes the name. Fails with busy if a machine of that name runs, and with usage if the name
    /// is not 1 to 64 of [A-Za-z0-9_.-], or starts with a dot or a dash.
    static Result<NameClaim> take(const RunDir& dir, const std::string& name);
    NameClaim(NameClaim&&) = default;
    NameClaim& operator=(NameClaim&&) = default;
    /// Removes the folder. A log that is not empty stays until the next machine of that name.
    ~NameClaim();

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const std::string& folder() const { return folder_; }

private:
    NameClaim(std::string name, std::string folder, UniqueFd all, UniqueFd lock)
        : name_(std::move(name)), folder_(std::move(folder)), all_(std::move(all)), lock_(std::move(lock)) {}
    std::string name_;
    std::string folder_;
    UniqueFd all_;  ///< the folder of all machines; it leads to what the destructor removes
    UniqueFd lock_;
};

}  // namespace snapvm
