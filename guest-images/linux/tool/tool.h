// SPDX-License-Identifier: Apache-2.0
// The guest tool is PID 1 of the image, and has the commands that tests need and busybox lacks. It
// is one static binary on libc and zlib's checksums, with one function for each command.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace tool {

// A command gets the arguments after its name and returns the exit code.
int run_init();
int run_load(int count, char** arguments);
int run_vsock_echo(int count, char** arguments);
int run_vsock_send(int count, char** arguments);
int run_tcp_sum(int count, char** arguments);
int run_tcp_send(int count, char** arguments);
int run_random(int count, char** arguments);

// Prints what failed and the reason in errno, and ends this process.
[[noreturn]] inline void die(const char* what) {
    std::fprintf(stderr, "guest-tool: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

inline int check(int result, const char* what) {
    if (result < 0) die(what);
    return result;
}

// Parses a number. All of `text` has to be the number, and the number at most `limit`; otherwise
// this process ends.
inline uint64_t number(const char* text, uint64_t limit) {
    char* end = nullptr;
    errno = 0;
    const uint64_t value = std::strtoull(text, &end, 10);
    if (errno == 0 && (end == text || *end != '\0' || *text == '-' || value > limit)) errno = EINVAL;
    if (errno != 0) die(text);
    return value;
}

inline int64_t now_ns(clockid_t clock) {
    timespec time{};
    check(clock_gettime(clock, &time), "clock_gettime");
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

}  // namespace tool
