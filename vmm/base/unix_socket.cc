// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/unix_socket.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr int kBacklog = 64;

Result<UniqueFd> unix_socket(int extra_flags) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | extra_flags, 0);
    if (fd < 0) {
        return fail(Error::system("socket", "AF_UNIX", errno));
    }
    return UniqueFd(fd);
}

// sockaddr_un and sockaddr share their first member; the API is from before void pointers.
const sockaddr* as_sockaddr(const sockaddr_un& address) { return reinterpret_cast<const sockaddr*>(&address); }

// Makes room where a process died and left its socket behind.
Status remove_stale(const std::string& path, const std::string& other) {
    struct stat info{};
    if (::lstat(path.c_str(), &info) != 0) {
        return {};
    }
    if (!S_ISSOCK(info.st_mode)) {
        return fail(ErrorKind::usage, path + " exists and is not a socket", "choose " + other);
    }
    if (connect_unix(path)) {
        return fail(ErrorKind::busy, "somebody answers at " + path + " already", "choose " + other);
    }
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        return fail(Error::system("unlink", path, errno));
    }
    return {};
}

}  // namespace

Result<sockaddr_un> unix_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.find('\0') != std::string::npos) {
        return fail(ErrorKind::usage, "the path of a socket is empty or has a NUL byte in it");
    }
    if (path.size() >= sizeof address.sun_path) {
        return fail(ErrorKind::usage,
                    "the socket path " + path + " has " + std::to_string(path.size()) + " bytes, and a socket's has at most " +
                        std::to_string(sizeof address.sun_path - 1),
                    "choose a shorter path (--run-dir, --name)");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

Result<UniqueFd> connect_unix(const std::string& path) {
    const sockaddr_un address = TRY(unix_address(path));
    // Not blocking for the connect alone: a listener whose queue is full would hold us.
    UniqueFd fd = TRY(unix_socket(SOCK_NONBLOCK));
    if (::connect(fd.get(), as_sockaddr(address), sizeof address) == 0) {
        return fd;
    }
    switch (errno) {
        case ENOENT:
        case ENOTDIR:
        case ECONNREFUSED: return fail(ErrorKind::not_found, "nobody answers at " + path);
        case EAGAIN: return fail(ErrorKind::busy, "too many connections wait at " + path);
        default: return fail(Error::system("connect", path, errno));
    }
}

Result<Listener> Listener::open(const std::string& path, const std::string& other) {
    const sockaddr_un address = TRY(unix_address(path));
    UniqueFd fd = TRY(unix_socket(SOCK_NONBLOCK));
    // The path gets the socket's own mode (unix_bind in the kernel): before bind, so that it is never wider, not for a moment.
    if (::fchmod(fd.get(), 0600) != 0) {
        return fail(Error::system("fchmod", path, errno));
    }
    if (::bind(fd.get(), as_sockaddr(address), sizeof address) != 0) {
        if (errno != EADDRINUSE) {
            return fail(Error::system("bind", path, errno));
        }
        TRY(remove_stale(path, other));
        if (::bind(fd.get(), as_sockaddr(address), sizeof address) != 0) {
            return fail(Error::system("bind", path, errno));
        }
    }
    struct stat made{};
    if (::listen(fd.get(), kBacklog) != 0 || ::lstat(path.c_str(), &made) != 0) {
        Error error = Error::system("listen", path, errno);
        ::unlink(path.c_str());
        return fail(std::move(error));
    }
    return Listener(std::move(fd), path, made);
}

void Listener::close() {
    if (!fd_.valid()) {
        return;
    }
    struct stat now{};
    if (::lstat(path_.c_str(), &now) == 0 && now.st_dev == made_.st_dev && now.st_ino == made_.st_ino) {
        ::unlink(path_.c_str());
    }
    fd_.reset();
}

}  // namespace snapvm
