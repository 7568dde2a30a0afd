// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>

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

// Connects to the address; `path` names it in errors.
Result<UniqueFd> connect_to(const sockaddr_un& address, const std::string& path) {
    // Non-blocking for connect: a listener with a full queue would block it.
    UniqueFd fd = TRY(unix_socket(SOCK_NONBLOCK));
    // sockaddr_un and sockaddr share their first member; connect takes the latter.
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
        return fd;
    }
    switch (errno) {
        case ENOENT:
        case ENOTDIR:
        case ECONNREFUSED: return fail(ErrorKind::not_found, "no process answers at " + path);
        case EAGAIN: return fail(ErrorKind::busy, "too many connections wait at " + path, "try again");
        default: return fail(Error::system("connect", path, errno));
    }
}

// Removes the socket that a dead process left at the path.
Status remove_stale(const FolderEntry& entry, const std::string& path, const std::string& other) {
    struct stat info{};
    if (!entry.find(info)) {
        return {};
    }
    if (!S_ISSOCK(info.st_mode)) {
        return fail(ErrorKind::usage, path + " exists and is not a socket", "choose " + other);
    }
    if (connect_unix(path)) {
        return fail(ErrorKind::busy, path + " is in use: another process answers there", "choose " + other);
    }
    if (!entry.remove() && errno != ENOENT) {
        return fail(Error::system("unlink", path, errno));
    }
    return {};
}

}  // namespace

Result<sockaddr_un> unix_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.find('\0') != std::string::npos) {
        return fail(ErrorKind::usage, "the path of a socket is empty or has a NUL byte in it",
                    "give the path of a file");
    }
    if (path.size() >= sizeof address.sun_path) {
        return fail(ErrorKind::usage,
                    "the socket path " + path + " has " + std::to_string(path.size()) + " bytes, more than the " +
                        std::to_string(sizeof address.sun_path - 1) + " that a socket can have",
                    "choose a shorter path (--run-dir, --name)");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

Result<UniqueFd> connect_unix(const std::string& path) { return connect_to(TRY(unix_address(path)), path); }

Result<UniqueFd> connect_unix(int folder, const std::string& name) {
    // connect(2) takes no descriptor, and /proc has a name for one. O_PATH is all that it needs.
    const UniqueFd socket = TRY(opener().open(folder, name, O_PATH, 0));
    return connect_to(TRY(unix_address("/proc/self/fd/" + std::to_string(socket.get()))), name);
}

Result<Listener> Listener::open(const std::string& path, const std::string& other) {
    TRY(unix_address(path));
    auto entry = FolderEntry::of(path);
    if (!entry) {
        return fail(Error::system("bind", path, entry.error().code()));
    }
    UniqueFd fd = TRY(unix_socket(SOCK_NONBLOCK));
    // bind gives the path the socket's own mode (unix_bind in the kernel). So the mode is set
    // before bind, and the path is never accessible to others.
    if (::fchmod(fd.get(), 0600) != 0) {
        return fail(Error::system("fchmod", path, errno));
    }
    if (Status bound = opener().bind(fd.get(), path); !bound) {
        if (bound.error().code() != EADDRINUSE) {
            return fail(std::move(bound).error());
        }
        TRY(remove_stale(*entry, path, other));
        TRY(opener().bind(fd.get(), path));
    }
    struct stat made{};
    if (::listen(fd.get(), kBacklog) != 0 || !entry->find(made)) {
        Error error = Error::system("listen", path, errno);
        entry->remove();
        return fail(std::move(error));
    }
    return Listener(std::move(fd), *std::move(entry), made);
}

void Listener::close() {
    if (!fd_.valid()) {
        return;
    }
    if (entry_.is(made_)) {
        entry_.remove();
    }
    fd_.reset();
}

}  // namespace snapvm
