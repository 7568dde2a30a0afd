// SPDX-License-Identifier: Apache-2.0
// Creates, connects and removes unix sockets.
#pragma once

#include <sys/un.h>

#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"

namespace snapvm {

/// Returns the address of a unix socket. Fails with usage if the path is empty, has a NUL byte, or
/// is longer than an address can hold (107 bytes).
Result<sockaddr_un> unix_address(const std::string& path);

/// Connects without waiting. Fails with not_found if there is no socket or no listener, and with
/// busy if the listener's queue is full.
Result<UniqueFd> connect_unix(const std::string& path);
/// Does the same with the socket `name` in an opened folder, through the process's opener. Fails
/// also like Opener::open. The length of the name does not matter, except in a root without /proc,
/// where a thread is started for it.
Result<UniqueFd> connect_unix(int folder, const std::string& name);

/// Makes the name free if a dead process has left it: removes a socket that no process has
/// (connecting to it is refused), or a symbolic link to such a socket, if it is this user's; also a
/// link of this user's to an API socket that is gone. `path` is the path of `entry`. Fails with
/// busy if a process has the socket, whatever its type, and with usage if something else is there;
/// both advise to choose `other`.
Status remove_stale_socket(const FolderEntry& entry, const std::string& path, const std::string& other);

/// A listening socket with mode 0600, whatever the umask is. The caller creates the folder.
class Listener {
public:
    /// Binds and listens. What is at the path is replaced, or is refused, as by
    /// remove_stale_socket().
    static Result<Listener> open(const std::string& path, const std::string& other);
    Listener(Listener&&) noexcept = default;
    Listener& operator=(Listener&&) = delete;
    ~Listener() { close(); }

    [[nodiscard]] int fd() const { return fd_.get(); }
    /// Returns the socket's name in its folder.
    [[nodiscard]] const FolderEntry& entry() const { return entry_; }
    /// Stops listening. Removes the socket, unless another one was bound there meanwhile.
    void close();

private:
    Listener(UniqueFd fd, FolderEntry entry, UniqueFd made)
        : fd_(std::move(fd)), entry_(std::move(entry)), made_(std::move(made)) {}
    UniqueFd fd_;
    FolderEntry entry_;
    UniqueFd made_;  ///< of the socket's inode
};

}  // namespace snapvm
