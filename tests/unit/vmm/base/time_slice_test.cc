// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/time_slice.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace snapvm::test {
namespace {

// The kernel's sched_attr in its first version: its header does not go with glibc's, which gtest
// has.
struct Attributes {
    std::uint32_t size = 0;
    std::uint32_t policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 0;
    std::uint64_t deadline = 0;
    std::uint64_t period = 0;
};

Attributes own_attributes() {
    Attributes attr{};
    EXPECT_EQ(::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0), 0);
    return attr;
}

TEST(ShortSlice, LastsAsLongAsItLivesAndLeavesTheRestAlone) {
    const Attributes before = own_attributes();
    if (before.policy != SCHED_OTHER || before.runtime == 0) {
        GTEST_SKIP() << "before Linux 6.12, or not of SCHED_OTHER: threads have no slices of their own";
    }
    {
        const ShortSlice prompt;
        const Attributes during = own_attributes();
        EXPECT_EQ(during.runtime, 100'000U);
        EXPECT_LT(during.runtime, before.runtime);
        EXPECT_EQ(during.nice, before.nice);
    }
    const Attributes after = own_attributes();
    EXPECT_EQ(after.runtime, before.runtime);
    EXPECT_EQ(after.policy, before.policy);
    EXPECT_EQ(after.nice, before.nice);
}

}  // namespace
}  // namespace snapvm::test
