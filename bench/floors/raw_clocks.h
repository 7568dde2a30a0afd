// SPDX-License-Identifier: Apache-2.0
// How floors read the time, and how they end if a system call fails. Nothing here is measured.
#pragma once

#include <sys/resource.h>
#include <time.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

inline uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

// Returns the processor time of this process, or thread (RUSAGE_THREAD), with the kernel's part.
inline uint64_t cpu_ns(int who = RUSAGE_SELF) {
    rusage used;
    getrusage(who, &used);
    const auto us = [](const timeval& t) {
        return static_cast<uint64_t>(t.tv_sec) * 1000000 + static_cast<uint64_t>(t.tv_usec);
    };
    return (us(used.ru_utime) + us(used.ru_stime)) * 1000;
}

[[noreturn]] inline void die(const char* what, int error) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(error));
    exit(1);
}

}  // namespace
