// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/time_slice.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace snapvm {
namespace {

constexpr std::uint64_t kShortest = 100'000;  // ns; the least that the kernel accepts
constexpr std::uint64_t kDefault = 0;

// Keeps nice value and flags. glibc 2.36 has no wrapper, and its <sched.h> conflicts with the
// kernel's header.
bool set_slice(std::uint64_t ns) {
    sched_attr attr{};
    if (::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0 || attr.sched_policy != SCHED_NORMAL) {
        return false;
    }
    attr.sched_runtime = ns;
    return ::syscall(SYS_sched_setattr, 0, &attr, 0) == 0;
}

}  // namespace

ShortSlice::ShortSlice() : set_(set_slice(kShortest)) {}

ShortSlice::~ShortSlice() {
    if (set_) {
        (void)set_slice(kDefault);
    }
}

}  // namespace snapvm
