// SPDX-License-Identifier: Apache-2.0
// The seam between paths and descriptors. Everything that snapvm opens by path, or binds to one,
// goes through the process's opener. Functions that open (fd.h, unix_socket.h) call it.
#pragma once

#include <sys/stat.h>

#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// Opens paths for the process. The functions may be called from any thread. This class does it by
/// plain system calls; others replace it (set_opener).
class Opener {
public:
    Opener() = default;
    Opener(const Opener&) = delete;
    Opener& operator=(const Opener&) = delete;
    virtual ~Opener() = default;

    /// Does what openat(2) does, with O_CLOEXEC and O_NOCTTY added. A relative path starts from the
    /// descriptor `folder`; with AT_FDCWD, from the current directory. Fails with the call's error.
    [[nodiscard]] virtual Result<UniqueFd> open(int folder, const std::string& path, int flags, unsigned mode) const;
    /// Binds a unix socket to a path, as bind(2) does. Fails with the call's error, and like
    /// unix_address.
    [[nodiscard]] virtual Status bind(int socket, const std::string& path) const;
};

/// Returns the process's opener: an Opener, unless another one is set.
[[nodiscard]] const Opener& opener();
/// Makes `with` the process's opener, or an Opener if it is null. Called before threads are started
/// and after they have ended. `with` must stay until it is replaced.
void set_opener(const Opener* with);

/// Returns whether both are of one file.
[[nodiscard]] inline bool is_same_file(const struct stat& a, const struct stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/// A name in a folder that is held by descriptor. What it stands for does not change if the folder
/// is renamed or the process changes its directory.
class FolderEntry {
public:
    /// Opens the folder of a path. The file itself need not exist.
    static Result<FolderEntry> of(const std::string& path);

    [[nodiscard]] int folder() const { return folder_.get(); }
    [[nodiscard]] const std::string& name() const { return name_; }
    /// Returns whether the name is that of the file `file`. A symbolic link is a file of its own.
    [[nodiscard]] bool is(const struct stat& file) const;
    /// Fills `file`. Returns false, with errno, if there is no such file.
    [[nodiscard]] bool find(struct stat& file) const;
    /// Opens the file itself, a symbolic link included (O_PATH). No other file gets its inode
    /// number as long as the descriptor is open, so remove_if() cannot mistake one for it.
    [[nodiscard]] Result<UniqueFd> hold() const;
    /// Removes the file. Returns false, with errno, if that fails.
    bool remove() const;
    /// Removes the file if it is the one that `held` is of (hold()). Returns whether the name is
    /// free.
    [[nodiscard]] bool remove_if(const UniqueFd& held) const;

private:
    FolderEntry(UniqueFd folder, std::string name) : folder_(std::move(folder)), name_(std::move(name)) {}
    UniqueFd folder_;
    std::string name_;
};

}  // namespace snapvm
