// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/inheritance.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "tests/support/child.h"

namespace snapvm {
namespace {

// Returns whether descriptor `fd` is /dev/null.
bool is_null_device(int fd) {
    struct stat info{};
    struct stat null{};
    return ::fstat(fd, &info) == 0 && ::stat("/dev/null", &null) == 0 && S_ISCHR(info.st_mode) &&
           info.st_rdev == null.st_rdev;
}

TEST(Inheritance, ClosedStandardStreamsBecomeNullAndTheOthersStay) {
    const int code = test::in_child([] {
        struct stat before{};
        struct stat after{};
        ::close(STDIN_FILENO);
        ::close(STDERR_FILENO);
        if (::fstat(STDOUT_FILENO, &before) != 0) {
            return 1;
        }
        mend_inheritance();
        if (!is_null_device(STDIN_FILENO) || !is_null_device(STDERR_FILENO)) {
            return 2;
        }
        if (::fcntl(STDIN_FILENO, F_GETFD) != 0) {
            return 3;  // a program that is executed gets it, too
        }
        const bool same = ::fstat(STDOUT_FILENO, &after) == 0 && before.st_ino == after.st_ino;
        return same && ::open("/", O_RDONLY | O_CLOEXEC) > STDERR_FILENO ? 0 : 4;
    });
    EXPECT_EQ(code, 0);
}

TEST(Inheritance, WithoutNullDeviceNothingIsReadAndWritesFail) {
    const int code = test::in_child([] {
        for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
            ::close(fd);
        }
        ::signal(SIGPIPE, SIG_IGN);
        if (!test::refuse_call(SYS_openat, ENOENT)) {
            return 1;
        }
        mend_inheritance();
        char byte = 0;
        if (::read(STDIN_FILENO, &byte, 1) != 0) {
            return 2;
        }
        for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
            if (::write(fd, &byte, 1) != -1 || errno != EPIPE) {
                return 3;
            }
        }
        return 0;
    });
    EXPECT_EQ(code, 0);
}

TEST(Inheritance, ASizeLimitIsAnErrorOfTheWrite) {
    const int code = test::in_child([] {
        mend_inheritance();
        const int file = ::memfd_create("limited", MFD_CLOEXEC);
        const rlimit limit{10, 10};
        if (file < 0 || ::setrlimit(RLIMIT_FSIZE, &limit) != 0) {
            return 1;
        }
        char bytes[11] = {};
        return ::write(file, bytes, 10) == 10 && ::write(file, bytes, 1) == -1 && errno == EFBIG ? 0 : 2;
    });
    EXPECT_EQ(code, 0);
}

TEST(Inheritance, IgnoredSignalsEndNoRunButSigtermDoes) {
    const int code = test::in_child([] {
        for (const int signal : {SIGINT, SIGHUP, SIGTERM}) {
            ::signal(signal, SIG_DFL);
        }
        const sigset_t all = ending_signals();
        ::signal(SIGHUP, SIG_IGN);
        ::signal(SIGTERM, SIG_IGN);
        const sigset_t fewer = ending_signals();
        const auto has = [](const sigset_t& set, int signal) { return sigismember(&set, signal) == 1; };
        return has(all, SIGINT) && has(all, SIGHUP) && has(all, SIGTERM) && has(fewer, SIGINT) && !has(fewer, SIGHUP) &&
                       has(fewer, SIGTERM)
                   ? 0
                   : 1;
    });
    EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace snapvm
