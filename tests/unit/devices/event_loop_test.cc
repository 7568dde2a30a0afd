// SPDX-License-Identifier: Apache-2.0
// The devices' thread: its callbacks, and a hold that waits for work in progress and lets no new
// work begin.
#include "devices/event_loop/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;
using test::ok;

class Bell {
public:
    void ring() const { (void)::eventfd_write(fd_.get(), 1); }
    void answer() const {
        eventfd_t rung = 0;
        (void)::eventfd_read(fd_.get(), &rung);
    }
    [[nodiscard]] int fd() const { return fd_.get(); }

private:
    UniqueFd fd_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

bool soon(const std::function<bool()>& condition) {
    for (const auto until = std::chrono::steady_clock::now() + 30s; std::chrono::steady_clock::now() < until;) {
        if (condition()) {
            return true;
        }
        std::this_thread::sleep_for(1ms);
    }
    return false;
}

TEST(EventLoop, CallsWhoWatchesWithoutAThread) {
    const auto loop = *EventLoop::create();
    const Bell bell;
    int calls = 0;
    auto watch = loop->watch(EventLoop::Kind::intake, bell.fd(), EPOLLIN, [&] {
        bell.answer();
        ++calls;
    });
    ASSERT_TRUE(ok(watch));
    EXPECT_FALSE(loop->run_pending());
    bell.ring();
    EXPECT_TRUE(loop->run_pending());
    EXPECT_FALSE(loop->run_pending());
    EXPECT_EQ(calls, 1);
    watch->reset();
    bell.ring();
    EXPECT_FALSE(loop->run_pending());
    EXPECT_EQ(calls, 1);
}

TEST(EventLoop, AWatchMayEndInItsOwnCallback) {
    const auto loop = *EventLoop::create();
    const Bell bell;
    std::unique_ptr<EventLoop::Watch> watch;
    int calls = 0;
    watch = *loop->watch(EventLoop::Kind::intake, bell.fd(), EPOLLIN, [&] {
        ++calls;
        watch.reset();
    });
    bell.ring();
    EXPECT_TRUE(loop->run_pending());
    EXPECT_FALSE(loop->run_pending());
    EXPECT_EQ(calls, 1);
}

// Trap: memory that a device writes must not change in a pause, and the pause must not wait for new
// work.
TEST(EventLoop, AHoldWaitsForWhatWasBegunAndLetsNothingBegin) {
    for (const bool threaded : {false, true}) {
        SCOPED_TRACE(threaded);
        const auto loop = *EventLoop::create();
        const Bell request;
        const Bell answer;
        std::atomic<int> begun = 0;
        std::atomic<int> ended = 0;
        const auto intake = *loop->watch(EventLoop::Kind::intake, request.fd(), EPOLLIN, [&] {
            request.answer();
            loop->begin_work();
            ++begun;
        });
        const auto completion = *loop->watch(EventLoop::Kind::completion, answer.fd(), EPOLLIN, [&] {
            answer.answer();
            ++ended;
            loop->end_work();
        });
        if (threaded) {
            ASSERT_TRUE(ok(loop->start()));
        }
        request.ring();
        if (threaded) {
            ASSERT_TRUE(soon([&] { return begun == 1; }));
        } else {
            ASSERT_TRUE(loop->run_pending());
        }
        std::thread disk([&] {
            std::this_thread::sleep_for(20ms);
            answer.ring();
        });
        loop->quiesce();
        EXPECT_EQ(ended, 1);
        disk.join();
        request.ring();
        std::this_thread::sleep_for(20ms);
        EXPECT_FALSE(!threaded && loop->run_pending());
        EXPECT_EQ(begun, 1) << "held";
        loop->thaw();
        if (threaded) {
            EXPECT_TRUE(soon([&] { return begun == 2; }));
        } else {
            EXPECT_TRUE(loop->run_pending());
            EXPECT_EQ(begun, 2);
        }
        loop->stop();
    }
}

// Work may take long or never end. The holder can check something else while it waits, and give up.
TEST(EventLoop, AHoldThatIsNotDoneByItsDeadlineHoldsAllTheSame) {
    for (const bool threaded : {false, true}) {
        SCOPED_TRACE(threaded);
        const auto loop = *EventLoop::create();
        const Bell request;
        std::atomic<int> begun = 0;
        const auto intake = *loop->watch(EventLoop::Kind::intake, request.fd(), EPOLLIN, [&] {
            request.answer();
            ++begun;
        });
        if (threaded) {
            ASSERT_TRUE(ok(loop->start()));
        }
        loop->begin_work();
        const auto now = [] { return std::chrono::steady_clock::now(); };
        EXPECT_FALSE(loop->quiesce(now()));
        EXPECT_FALSE(loop->quiesce(now() + 5ms));
        request.ring();
        EXPECT_FALSE(loop->quiesce(now() + 5ms));
        EXPECT_EQ(begun, 0);
        loop->end_work();
        EXPECT_TRUE(loop->quiesce(now()));
        EXPECT_EQ(begun, 0);
        loop->thaw();
        EXPECT_TRUE(threaded ? soon([&] { return begun == 1; }) : loop->run_pending());
        loop->stop();
    }
}

TEST(EventLoop, WaitsUntilCallbacksHaveBroughtItAbout) {
    const auto loop = *EventLoop::create();
    const Bell bell;
    std::atomic<int> calls = 0;
    const auto watch = *loop->watch(EventLoop::Kind::intake, bell.fd(), EPOLLIN, [&] {
        bell.answer();
        if (++calls < 3) {
            bell.ring();
        }
    });
    bell.ring();
    loop->wait([&] { return calls == 3; });
    ASSERT_TRUE(ok(loop->start()));
    calls = 0;
    bell.ring();
    loop->wait([&] { return calls == 3; });
    EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace snapvm
