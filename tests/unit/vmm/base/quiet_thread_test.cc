// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/quiet_thread.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include "tests/support/result_matchers.h"

namespace snapvm::test {
namespace {

TEST(QuietThread, DoesOneThingAfterTheOtherWhereNoSignalComes) {
    auto quiet = QuietThread::start();
    ASSERT_TRUE(quiet.has_value());
    const std::thread::id here = std::this_thread::get_id();
    for (int i = 0; i < 1000; ++i) {
        bool done = false;
        ASSERT_TRUE(ok((*quiet)->run([&]() -> Status {
            sigset_t blocked;
            ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
            EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
            EXPECT_EQ(sigismember(&blocked, SIGURG), 1);
            EXPECT_NE(std::this_thread::get_id(), here);
            done = true;
            return {};
        })));
        ASSERT_TRUE(done);
    }
    EXPECT_TRUE(
        fails((*quiet)->run([] { return Status(fail(ErrorKind::busy, "as told")); }), ErrorKind::busy, "as told"));
}

}  // namespace
}  // namespace snapvm::test
