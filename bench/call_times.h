// SPDX-License-Identifier: Apache-2.0
// Measures the time spent in the library's own system calls, from outside the library: the linker
// sends this program's ioctl, mmap, munmap and madvise through call_times.cc (--wrap). Measuring
// costs about 0.1 us a call.
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

/// Sets all counts to zero.
void reset_call_times();
/// Returns the calls of all threads since the last reset, the most expensive first. KVM_RUN is left
/// out.
[[nodiscard]] std::vector<CallTime> call_times();
/// Returns the time of one call since the last reset, in microseconds, 0 if it was not made.
[[nodiscard]] double call_time_us(const std::string& name);

}  // namespace snapvm::bench
