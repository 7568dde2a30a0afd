// SPDX-License-Identifier: Apache-2.0
// The folder of the running machines. Each machine has a folder of its name in it, with its API
// socket, its lock and its log. Both folders are opened by vmm/base/own_folder.h, and what is in
// them from their descriptors, so that neither another user nor a symbolic link decides which file
// that is.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// The path is the value of `--run-dir` or SNAPVM_RUN_DIR; else `/run/snapvm` for root,
/// `$XDG_RUNTIME_DIR/snapvm`, or without that variable `/tmp/snapvm-UID`. Folders have mode 0700.
class RunDir {
public:
    /// Determines the path, an absolute one; creates and opens nothing. Fails with system if the
    /// current folder is needed and not known.
    static Result<RunDir> find(const std::string& override_path);

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string folder_of(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] std::string socket_of(const std::string& name) const { return folder_of(name) + "/api.sock"; }
    /// Fails like open_own_folder if the folder of a machine, or the run folder, is not one that
    /// only this user can change, and with usage if it cannot be a machine's name. A folder that
    /// does not exist is no error.
    [[nodiscard]] Status check(const std::string& name) const;
    /// Returns the beginning of a detached machine's stderr, 64 KiB at most; nothing if there is no
    /// log.
    [[nodiscard]] std::string log(const std::string& name) const;
    /// Returns how a detached machine has ended: the answer of GET /wait?for=exit. Returns nothing
    /// while it runs, if its process was killed, and if there is no such machine.
    [[nodiscard]] std::string outcome(const std::string& name) const;
    /// Returns the names of the machines that have ended and left something (NameClaim), in natural
    /// order: clone-2 before clone-10.
    Result<std::vector<std::string>> ended() const;
    /// Removes what an ended machine has left. Fails with busy if it runs, and with not_found if
    /// there is no such machine. Fails with usage if the folder has something else in it.
    Status remove(const std::string& name) const;
    /// Removes what ended machines have left, the oldest first, until no more than `keep` are left.
    void remove_oldest(std::size_t keep) const;
    /// Removes what the machine of a killed process has left, and nothing of another process.
    void remove_left_by(int pid, const std::string& name) const;
    /// Returns the names of the machines that run now (whose lock is held), likewise. Skips folders
    /// whose owner is gone.
    Result<std::vector<std::string>> running() const;
    /// Returns true also if it cannot be told, for want of descriptors or memory.
    [[nodiscard]] bool is_running(const std::string& name) const;
    /// Kills the process of a machine (SIGKILL). Fails with not_found if no machine of that name
    /// runs.
    Status kill(const std::string& name) const;
    /// Waits until no machine of that name runs. Its name, and what it held, are free once its
    /// process has ended. Fails with system at the deadline.
    Status wait_gone(const std::string& name, std::chrono::steady_clock::time_point deadline) const;
    /// Returns the name of the machine that a process runs, or an empty string if it runs none of
    /// this folder.
    [[nodiscard]] std::string machine_of(int pid) const;

private:
    explicit RunDir(std::string path) : path_(std::move(path)) {}
    [[nodiscard]] Result<UniqueFd> open_folder_of(const std::string& name) const;
    [[nodiscard]] Result<std::vector<std::string>> names_where(
        const std::function<bool(const UniqueFd& folder)>& wanted) const;
    std::string path_;
};

/// A machine's claim on its name, for the lifetime of the object. It is a locked file in the
/// machine's folder that contains the process' number. The kernel drops the lock when the process
/// ends in any way, so a name cannot stay taken.
class NameClaim {
public:
    /// Takes the name. Fails with busy if a machine of that name runs, and with usage if the name
    /// is not 1 to 64 of [A-Za-z0-9_.-], or starts with a dot or a dash. Fails like
    /// make_own_folder if a folder is not this user's alone.
    static Result<NameClaim> take(const RunDir& dir, const std::string& name);
    NameClaim(NameClaim&&) = default;
    NameClaim& operator=(NameClaim&&) = default;
    /// Removes the folder, if the name still is that of the folder that was taken. A log that is
    /// not empty, and an outcome, stay until RunDir::remove() or the next machine of that name.
    ~NameClaim();
    /// Writes down how the machine has ended (RunDir::outcome).
    [[nodiscard]] Status keep_outcome(const std::string& text) const;
    /// The name of the file that keep_outcome() writes in folder_fd().
    static constexpr const char* kOutcome = "outcome";
    [[nodiscard]] int folder_fd() const { return folder_fd_.get(); }

    /// Returns whether the folder and the lock are still there. They are not if a cleaner of
    /// temporary files, or a user, has removed them; other commands then do not find the machine.
    [[nodiscard]] bool is_in_place() const;
    [[nodiscard]] bool has_socket() const;
    /// Opens the machine's log, to append to it.
    [[nodiscard]] Result<UniqueFd> open_log() const;

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const std::string& folder() const { return folder_; }

private:
    NameClaim(std::string name, std::string folder, UniqueFd all, UniqueFd folder_fd, UniqueFd lock)
        : name_(std::move(name)),
          folder_(std::move(folder)),
          all_(std::move(all)),
          folder_fd_(std::move(folder_fd)),
          lock_(std::move(lock)) {}
    std::string name_;
    std::string folder_;
    UniqueFd all_;        ///< the folder of all machines
    UniqueFd folder_fd_;  ///< this machine's; it leads to what the destructor removes
    UniqueFd lock_;
};

}  // namespace snapvm
