// SPDX-License-Identifier: Apache-2.0
// Unix sockets: made, connected to, and removed again.
#pragma once

#include <sys/stat.h>
#include <sys/un.h>

#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// The address of a unix socket; ErrorKind::usage when the path is empty or longer than an address can hold (107 bytes).
Result<sockaddr_un> unix_address(const std::string& path);

/// Connects without waiting. not_found: no socket there, or nobody listens; busy: its queue is full.
Result<UniqueFd> connect_unix(const std::string& path);

/// A listening socket with mode 0600 whatever the umask is. The folder is the caller's.
class Listener {
public:
    /// Takes the place of a socket that nobody answers any more. busy: somebody does; usage: something other than a socket is
    /// there. Refusals advise to choose `other`.
    static Result<Listener> open(const std::string& path, const std::string& other);
    Listener(Listener&&) noexcept = default;
    Listener& operator=(Listener&&) = delete;
    ~Listener() { close(); }

    [[nodiscard]] int fd() const { return fd_.get(); }
    /// Stops listening and removes the path, unless another socket has taken it meanwhile.
    void close();

private:
    Listener(UniqueFd fd, std::string path, const struct stat& made) : fd_(std::move(fd)), path_(std::move(path)), made_(made) {}
    UniqueFd fd_;
    std::string path_;
    struct stat made_;
};

}  // namespace snapvm
