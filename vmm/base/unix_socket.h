// SPDX-License-Identifier: Apache-2.0
// Creates, connects and removes unix sockets.
#pragma once

#include <sys/stat.h>
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
/// also like Opener::open. It needs /proc. The length of the name does not matter.
Result<UniqueFd> connect_unix(int folder, const std::string& name);

/// A listening socket with mode 0600, whatever the umask is. The caller creates the folder.
class Listener {
public:
    /// Binds and listens. Replaces a socket that has no listener any more. Fails with busy if one
    /// answers, and with usage if the path is something other than a socket; both advise to choose
    /// `other`.
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
    Listener(UniqueFd fd, FolderEntry entry, const struct stat& made)
        : fd_(std::move(fd)), entry_(std::move(entry)), made_(made) {}
    UniqueFd fd_;
    FolderEntry entry_;
    struct stat made_;
};

}  // namespace snapvm
