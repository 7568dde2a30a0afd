// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/unix_socket.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <thread>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr int kBacklog = 64;

Result<UniqueFd> unix_socket(int type) {
    // Non-blocking for connect: a listener with a full queue would block it.
    const int fd = ::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return fail(Error::system("socket", "AF_UNIX", errno));
    }
    return UniqueFd(fd);
}

// Connects to the address; `path` names it in errors.
Result<UniqueFd> connect_to(const sockaddr_un& address, const std::string& path) {
    UniqueFd fd = TRY(unix_socket(SOCK_STREAM));
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

// For a root without /proc. A thread with a current directory of its own goes to the folder.
Result<UniqueFd> connect_from(int folder, const std::string& name) {
    const sockaddr_un address = TRY(unix_address(name));
    Result<UniqueFd> connected = UniqueFd();
    std::thread thread = TRY(start_thread(ThreadRole::io, [&] {
        const bool there = ::unshare(CLONE_FS) == 0 && ::fchdir(folder) == 0;
        connected = there ? connect_to(address, name) : fail(Error::system("fchdir", name, errno));
    }));
    thread.join();
    return connected;
}

// How a link ends that `--api-socket` has made. The run folder it leads to may be gone.
constexpr std::string_view kApiSocket = "/api.sock";

bool leads_nowhere(const FolderEntry& link) {
    std::array<char, PATH_MAX> text;
    const ssize_t size = ::readlinkat(link.folder(), link.name().c_str(), text.data(), text.size());
    struct stat target{};
    return size > 0 && std::string_view(text.data(), static_cast<std::size_t>(size)).ends_with(kApiSocket) &&
           ::fstatat(link.folder(), link.name().c_str(), &target, 0) != 0 && errno == ENOENT;
}

// Fails unless no process has the socket at the path. A datagram socket cannot connect to a stream
// socket (EPROTOTYPE), so the question takes no place in the queue of a live one, and a queue that
// is full does not matter. A socket that is bound and does not listen yet counts as live.
Status check_dead(const std::string& path, const std::string& advice) {
    const sockaddr_un address = TRY(unix_address(path));
    const UniqueFd asking = TRY(unix_socket(SOCK_DGRAM));
    const bool reached = ::connect(asking.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    if (!reached && errno == ECONNREFUSED) {
        return {};
    }
    if (reached || errno == EPROTOTYPE) {
        return fail(ErrorKind::busy,
                    path + " is in use: another process has " + (reached ? "a datagram" : "a") + " socket there",
                    advice);
    }
    return fail(Error::system("connect", path, errno, advice));
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
    auto connected = connect_to(TRY(unix_address("/proc/self/fd/" + std::to_string(socket.get()))), name);
    const bool none = !connected && connected.error().kind() == ErrorKind::not_found;
    return none ? connect_from(folder, name) : std::move(connected);  // no listener, or no /proc
}

Status remove_stale_socket(const FolderEntry& entry, const std::string& path, const std::string& other) {
    const std::string advice = "choose " + other;
    const auto held = entry.hold();
    if (!held) {
        return held.error().code() == ENOENT ? Status()
                                             : Status(fail(Error::system("open", path, held.error().code())));
    }
    struct stat own{};
    struct stat target{};
    if (::fstat(held->get(), &own) != 0) {
        return fail(Error::system("fstat", path, errno));
    }
    const bool link = S_ISLNK(own.st_mode);
    const bool nowhere = link && leads_nowhere(entry);
    if (!nowhere && (::fstatat(entry.folder(), entry.name().c_str(), &target, 0) != 0 || !S_ISSOCK(target.st_mode))) {
        return fail(
            ErrorKind::usage,
            path + (link ? " is a symbolic link, and does not lead to a socket" : " exists and is not a socket"),
            "move it away, or " + advice);
    }
    if (!nowhere) {
        TRY(check_dead(path, advice));
    }
    if (own.st_uid != ::geteuid()) {
        return fail(ErrorKind::usage, path + " is a " + (link ? "link" : "socket") + " of another user",
                    "have that user remove it, or " + advice);
    }
    errno = 0;
    if (!entry.remove_if(*held)) {
        return fail(Error::system("unlink", path, errno != 0 ? errno : EEXIST, advice));  // or it is another file now
    }
    return {};
}

Result<Listener> Listener::open(const std::string& path, const std::string& other) {
    TRY(unix_address(path));
    auto entry = FolderEntry::of(path);
    if (!entry) {
        return fail(Error::system("bind", path, entry.error().code()));
    }
    UniqueFd fd = TRY(unix_socket(SOCK_STREAM));
    // bind gives the path the socket's own mode (unix_bind in the kernel). So the mode is set
    // before bind, and the path is never accessible to others.
    if (::fchmod(fd.get(), 0600) != 0) {
        return fail(Error::system("fchmod", path, errno));
    }
    if (Status bound = opener().bind(fd.get(), path); !bound) {
        if (bound.error().code() != EADDRINUSE) {
            return fail(std::move(bound).error());
        }
        TRY(remove_stale_socket(*entry, path, other));
        TRY(opener().bind(fd.get(), path));
    }
    UniqueFd made = TRY(entry->hold());
    if (::listen(fd.get(), kBacklog) != 0) {
        Error error = Error::system("listen", path, errno);
        (void)entry->remove_if(made);
        return fail(std::move(error));
    }
    return Listener(std::move(fd), *std::move(entry), std::move(made));
}

void Listener::close() {
    if (fd_.valid()) {
        (void)entry_.remove_if(made_);
        fd_.reset();
    }
}

}  // namespace snapvm
