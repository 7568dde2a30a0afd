// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/time_slice.h"

#include <gtest/gtest.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace snapvm::test {
namespace {

sched_attr own_attributes() {
    sched_attr attr{};
    EXPECT_EQ(::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0), 0);
    return attr;
}

TEST(ShortSlice, LastsAsLongAsItLivesAndLeavesTheRestAlone) {
    const sched_attr before = own_attributes();
    if (before.sched_policy != SCHED_NORMAL || before.sched_runtime == 0) {
        GTEST_SKIP() << "before Linux 6.12, or not of SCHED_OTHER: threads have no slices of their own";
    }
    {
        const ShortSlice prompt;
        const sched_attr during = own_attributes();
        EXPECT_EQ(during.sched_runtime, 100'000U);
        EXPECT_LT(during.sched_runtime, before.sched_runtime);
        EXPECT_EQ(during.sched_nice, before.sched_nice);
    }
    const sched_attr after = own_attributes();
    EXPECT_EQ(after.sched_runtime, before.sched_runtime);
    EXPECT_EQ(after.sched_policy, before.sched_policy);
    EXPECT_EQ(after.sched_nice, before.sched_nice);
}

}  // namespace
}  // namespace snapvm::test
