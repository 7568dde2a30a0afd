// SPDX-License-Identifier: Apache-2.0
// Tasks: their order, what they give, and that they need no stack.
#include "devices/disk/io/task.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/result_matchers.h"

namespace snapvm::disk {
namespace {

using test::fails;
using test::ok;

/// Lets the tasks that wait go on one at a time, as a loop would.
void run_all(WaitList& list) {
    while (list.wake_one()) {
    }
}

Task<int> number(int value) { co_return value; }

Task<int> later(WaitList& list, int value) {
    co_await list.wait();
    co_return value;
}

Task<> note(WaitList& list, std::string& log, char name) {
    log += name;
    co_await list.wait();
    log += static_cast<char>(name - 'a' + 'A');
}

TEST(Tasks, RunsWhenItIsAwaited) {
    WaitList list;
    std::string log;
    Task<> first = note(list, log, 'a');
    Task<> second = note(list, log, 'b');
    EXPECT_EQ(log, "");
    start(std::move(second), [&] { log += '.'; });
    start(std::move(first), [&] { log += '!'; });
    EXPECT_EQ(log, "ba");
    EXPECT_TRUE(list.wake_one());
    EXPECT_EQ(log, "baB.");
    EXPECT_TRUE(list.wake_one());
    EXPECT_EQ(log, "baB.A!");
    EXPECT_FALSE(list.wake_one());
}

TEST(Tasks, WhatEndsAtOnceIsReportedAtOnce) {
    int result = 0;
    start(number(7), [&](int value) { result = value; });
    EXPECT_EQ(result, 7);
}

Task<std::unique_ptr<int>> only_moved(WaitList& list) {
    co_await list.wait();
    auto value = std::make_unique<int>(5);
    co_return value;
}

Task<std::unique_ptr<int>> passes_on(WaitList& list) {
    std::unique_ptr<int> value = co_await only_moved(list);
    ++*value;
    co_return std::move(value);
}

TEST(Tasks, GivesWhatCanOnlyBeMoved) {
    WaitList list;
    std::unique_ptr<int> result;
    start(passes_on(list), [&](std::unique_ptr<int> value) { result = std::move(value); });
    run_all(list);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(*result, 6);
}

Task<Result<int>> half(int value) {
    if (value % 2 != 0) {
        co_return fail(ErrorKind::invalid, "it is odd");
    }
    co_return value / 2;
}

Task<Status> quarters(int value, int& result) {
    auto first = co_await half(value);
    CO_TRY(first);
    auto second = co_await half(*first);
    CO_TRY(std::move(second));
    result = *first / 2;
    co_return Status{};
}

TEST(Tasks, AnErrorEndsTheTask) {
    int result = 0;
    Status status;
    const auto keep = [&](Status value) { status = std::move(value); };
    start(quarters(12, result), keep);
    EXPECT_TRUE(ok(status));
    EXPECT_EQ(result, 3);
    start(quarters(6, result), keep);
    EXPECT_TRUE(fails(status, ErrorKind::invalid, "it is odd"));
    EXPECT_EQ(result, 3);
}

/// Counts the objects that exist.
class Counted {
public:
    explicit Counted(int& count) : count_(&count) { ++*count_; }
    Counted(const Counted& other) : count_(other.count_) { ++*count_; }
    Counted(Counted&& other) noexcept : count_(other.count_) { ++*count_; }
    Counted& operator=(const Counted&) = delete;
    Counted& operator=(Counted&&) = delete;
    ~Counted() { --*count_; }

private:
    int* count_;
};

Task<Counted> holds(WaitList& list, Counted argument) {
    Counted local = argument;
    co_await list.wait();
    co_return local;
}

TEST(Tasks, DestroysWhatItHas) {
    int count = 0;
    WaitList list;
    {
        const Task<Counted> never_awaited = holds(list, Counted(count));
        EXPECT_EQ(count, 1);
    }
    EXPECT_EQ(count, 0);
    start(holds(list, Counted(count)), [&](const Counted& /*value*/) { EXPECT_GT(count, 0); });
    EXPECT_GE(count, 2);
    run_all(list);
    EXPECT_EQ(count, 0);
}

Task<int> many_that_end_at_once(int times) {
    int sum = 0;
    for (int i = 0; i < times; ++i) {
        sum += co_await number(1);
    }
    co_return sum;
}

Task<int> many_that_wait(WaitList& list, int times) {
    int sum = 0;
    for (int i = 0; i < times; ++i) {
        sum += co_await later(list, 1);
    }
    co_return sum;
}

TEST(Tasks, ALoopNeedsNoStack) {
    int sum = 0;
    start(many_that_end_at_once(1'000'000), [&](int value) { sum = value; });
    EXPECT_EQ(sum, 1'000'000);
    WaitList list;
    start(many_that_wait(list, 1'000'000), [&](int value) { sum += value; });
    run_all(list);
    EXPECT_EQ(sum, 2'000'000);
}

Task<> wait_twice(WaitList& list, int& runs) {
    ++runs;
    co_await list.wait();
    ++runs;
    co_await list.wait();
    ++runs;
}

TEST(WaitLists, WakesInTheOrderOfArrival) {
    WaitList list;
    std::string log;
    for (const char name : {'a', 'b', 'c'}) {
        start(note(list, log, name), [] {});
    }
    list.wake_all();
    EXPECT_EQ(log, "abcABC");
    EXPECT_TRUE(list.empty());
}

TEST(WaitLists, DoesNotWakeATaskThatWaitsAgain) {
    WaitList list;
    int runs = 0;
    start(wait_twice(list, runs), [] {});
    start(wait_twice(list, runs), [] {});
    EXPECT_EQ(runs, 2);
    list.wake_all();
    EXPECT_EQ(runs, 4);
    EXPECT_FALSE(list.empty());
    list.wake_all();
    EXPECT_EQ(runs, 6);
    EXPECT_TRUE(list.empty());
}

struct Room {
    Mutex mutex;
    WaitList inside;
    int present = 0;
    int visits = 0;
    std::string log;
};

Task<> visit(Room& room, char name) {
    const Mutex::Guard guard = co_await room.mutex.lock();
    EXPECT_EQ(++room.present, 1);
    room.log += name;
    co_await room.inside.wait();
    --room.present;
    ++room.visits;
}

TEST(Mutexes, LetsOneThroughAfterTheOther) {
    Room room;
    for (const char name : {'a', 'b', 'c', 'd'}) {
        start(visit(room, name), [] {});
    }
    EXPECT_EQ(room.log, "a");
    EXPECT_TRUE(room.inside.wake_one());
    EXPECT_EQ(room.log, "ab");
    run_all(room.inside);
    EXPECT_EQ(room.log, "abcd");
    EXPECT_EQ(room.visits, 4);
    start(visit(room, 'e'), [] {});
    EXPECT_EQ(room.log, "abcde") << "it is free again";
    run_all(room.inside);
}

Task<> visit_often(Room& room, int times) {
    for (int i = 0; i < times; ++i) {
        {
            const Mutex::Guard guard = co_await room.mutex.lock();
            EXPECT_EQ(++room.present, 1);
            co_await room.inside.wait();
            --room.present;
            ++room.visits;
        }
        const Mutex::Guard guard = co_await room.mutex.lock();
        EXPECT_EQ(++room.present, 1);
        --room.present;
    }
}

TEST(Mutexes, EveryTaskGetsThrough) {
    Room room;
    int ended = 0;
    for (int i = 0; i < 100; ++i) {
        start(visit_often(room, 100), [&] { ++ended; });
    }
    run_all(room.inside);
    EXPECT_EQ(ended, 100);
    EXPECT_EQ(room.visits, 10'000);
}

Task<> pass_through(Room& room) {
    const Mutex::Guard guard = co_await room.mutex.lock();
    ++room.visits;
}

TEST(Mutexes, ALongQueueNeedsNoStack) {
    Room room;
    start(visit(room, 'a'), [] {});
    for (int i = 0; i < 200'000; ++i) {
        start(pass_through(room), [] {});
    }
    EXPECT_EQ(room.visits, 0);
    run_all(room.inside);
    EXPECT_EQ(room.visits, 200'001);
}

}  // namespace
}  // namespace snapvm::disk
