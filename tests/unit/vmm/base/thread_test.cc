// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/thread.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <array>
#include <string>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::ok;

std::string name_of_this_thread() {
    std::array<char, 16> name{};
    EXPECT_EQ(::pthread_getname_np(::pthread_self(), name.data(), name.size()), 0);
    return name.data();
}

TEST(Thread, HasTheNameOfItsRole) {
    for (const auto& [role, number, wanted] :
         {std::tuple(ThreadRole::vcpu, 12U, "vcpu12"), std::tuple(ThreadRole::devices, 0U, "devices"),
          std::tuple(ThreadRole::snapshot, 3U, "snapshot")}) {
        std::string found;
        auto thread = start_thread(role, [&] { found = name_of_this_thread(); }, number);
        ASSERT_TRUE(ok(thread));
        thread->join();
        EXPECT_EQ(found, wanted);
    }
}

// A name that is too long is no name: pthread_setname_np takes 15 characters.
TEST(Thread, EveryRoleHasANameThatFits) {
    for (int role = 0; role <= static_cast<int>(ThreadRole::progress); ++role) {
        std::string found;
        auto thread = start_thread(static_cast<ThreadRole>(role), [&] { found = name_of_this_thread(); }, 255);
        ASSERT_TRUE(ok(thread));
        thread->join();
        EXPECT_TRUE(found.starts_with(name_of(static_cast<ThreadRole>(role)))) << role << ": " << found;
        EXPECT_NE(found, "snapvm") << role;
    }
}

TEST(Thread, LeavesSignalsToOthersButTakesItsOwnFaults) {
    sigset_t before;
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, nullptr, &before), 0);
    sigset_t inside;
    auto thread = start_thread(ThreadRole::io, [&] { ::pthread_sigmask(SIG_BLOCK, nullptr, &inside); });
    ASSERT_TRUE(ok(thread));
    thread->join();
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD, SIGALRM}) {
        EXPECT_EQ(sigismember(&inside, signal), 1) << signal;
    }
    for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
        EXPECT_EQ(sigismember(&inside, fault), 0) << fault;
    }
    sigset_t after;
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, nullptr, &after), 0);
    for (int signal = 1; signal < NSIG; ++signal) {
        EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal)) << "the caller's mask is as it was";
    }
}

}  // namespace
}  // namespace snapvm
