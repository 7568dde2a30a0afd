// SPDX-License-Identifier: Apache-2.0
// Time spent in the library's own system calls, seen from outside of it: the linker sends this program's ioctl, mmap, munmap and madvise
// through call_times.cc (--wrap). About 0.1 us a call.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace snapvm::bench {

struct CallTime {
    std::string name;
    unsigned count = 0;
    double us = 0;
};

/// Forgets what was counted so far.
void reset_call_times();
/// Since the last reset, all threads, KVM_RUN left out; the most expensive first.
[[nodiscard]] std::vector<CallTime> call_times();
/// Of one name; 0 when it was not called.
[[nodiscard]] double call_time_us(const std::string& name);

}  // namespace snapvm::bench
