// SPDX-License-Identifier: Apache-2.0
// The guest tool: PID 1 of the image, and what tests need that busybox lacks. One static binary on libc (and zlib's sums), a command a function.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cerrno>
#include <ctime>

namespace tool {

// A command gets what follows its name and gives the exit code.
int run_init();
int run_load(int count, char** arguments);
int run_vsock_echo(int count, char** arguments);
int run_vsock_send(int count, char** arguments);
int run_tcp_sum(int count, char** arguments);
int run_tcp_send(int count, char** arguments);
int run_random(int count, char** arguments);

// Says what failed, and why by errno, and ends this process.
[[noreturn]] inline void die(const char* what) {
    std::fprintf(stderr, "guest-tool: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

inline int check(int result, const char* what) {
    if (result < 0) die(what);
    return result;
}

// A number that is all of TEXT, at most `limit`.
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
