// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/inheritance.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

bool is_ignored(int signal) {
    struct sigaction now{};
    return ::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

Result<UniqueFd> open_null(int fd) {
    if (auto null = open_file("/dev/null", O_RDWR)) {
        return null;
    }
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return fail(Error::system("pipe2", "", errno));
    }
    UniqueFd reading(ends[0]);
    UniqueFd writing(ends[1]);
    return fd == STDIN_FILENO ? std::move(reading) : std::move(writing);
}

}  // namespace

Status connect_to_null(int fd) {
    UniqueFd null = TRY(open_null(fd));
    if (null.get() == fd) {
        ::fcntl(null.release(), F_SETFD, 0);  // it got the number of a closed stream
        return {};
    }
    if (::dup2(null.get(), fd) < 0) {
        return fail(Error::system("dup2", "/dev/null", errno));
    }
    return {};
}

void mend_inheritance() {
    ::signal(SIGXFSZ, SIG_IGN);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(fd, F_GETFD) < 0) {
            (void)connect_to_null(fd);  // without it the process is no worse off than before
        }
    }
}

sigset_t ending_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    for (const int signal : {SIGINT, SIGHUP}) {
        // The kernel drops an ignored signal only if it is not blocked.
        if (!is_ignored(signal)) {
            sigaddset(&set, signal);
        }
    }
    return set;
}

}  // namespace snapvm
