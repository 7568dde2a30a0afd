// SPDX-License-Identifier: Apache-2.0
// An instance without a machine. Its loader is the test's, which can refuse, and can take its time;
// tests/kvm/instance_test.cc loads real machines.
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "tests/support/need.h"
#include "vmm/control/instance.h"

namespace snapvm::test {
namespace {

constexpr const char* kNoMachine = "the instance has no machine yet; load one with PUT /snapshot/load";

class InstanceWithoutMachine : public testing::Test {
protected:
    static Outcome stopped() { return {.kind = Outcome::Kind::stopped, .code = 0, .error = {}}; }
    /// The loader: it fails, but not before `slow_` is false.
    Result<std::unique_ptr<Machine>> refuse() {
        ++loads_;
        EXPECT_TRUE(eventually([this] { return !slow_; }));
        return fail(ErrorKind::not_found, "there is no such area");
    }

    std::atomic<bool> slow_ = false;
    std::atomic<int> loads_ = 0;
    Instance instance_{{.id = "empty", .loader = [this](const LoadRequest&) { return refuse(); }}};
};

TEST_F(InstanceWithoutMachine, SaysWhatItIs) {
    EXPECT_EQ(instance_.id(), "empty");
    EXPECT_EQ(instance_.state(), ServiceState::not_started);
    EXPECT_EQ(instance_.machine(), nullptr);
    const ServiceStats stats = instance_.stats();
    EXPECT_EQ(stats.id, "empty");
    EXPECT_EQ(stats.state, ServiceState::not_started);
    EXPECT_GT(stats.pid, 0U);
    EXPECT_EQ(stats.cpus, 0U);
    EXPECT_FALSE(stats.outcome.has_value());
    EXPECT_FALSE(instance_.snapshot_status().phase.has_value());
}

template <class T>
void expect_no_machine(const Result<T>& result) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().kind(), ErrorKind::usage);
    EXPECT_EQ(result.error().message(), kNoMachine);
}

TEST_F(InstanceWithoutMachine, WhatNeedsAMachineSaysSo) {
    expect_no_machine(instance_.config());
    expect_no_machine(instance_.pause());
    expect_no_machine(instance_.resume());
    expect_no_machine(instance_.snapshot({}));
    expect_no_machine(instance_.start_snapshot({}));
    expect_no_machine(instance_.cancel_snapshot());
    expect_no_machine(instance_.detach());
    expect_no_machine(instance_.balloon());
    expect_no_machine(instance_.set_balloon(0));
    expect_no_machine(instance_.set_balloon_polling(1));
    expect_no_machine(instance_.balloon_statistics());
    expect_no_machine(instance_.terminal());
    expect_no_machine(instance_.resize_terminal({}));
    const std::uint8_t byte = 0;
    EXPECT_EQ(instance_.send_input(std::span(&byte, 1), SteadyClock::now() + 1h), 0U);
    EXPECT_EQ(instance_.state(), ServiceState::not_started);
}

TEST_F(InstanceWithoutMachine, ALoadThatFailsLeavesItAsItWas) {
    for (int i = 1; i <= 2; ++i) {
        const Status loaded = instance_.load({});
        ASSERT_FALSE(loaded.has_value());
        EXPECT_EQ(loaded.error().message(), "there is no such area");
        EXPECT_EQ(loads_, i) << "the loader is asked again";
        EXPECT_EQ(instance_.state(), ServiceState::not_started);
    }
    expect_no_machine(instance_.pause());
}

TEST_F(InstanceWithoutMachine, OneLoadAtATimeAndItStillAnswers) {
    slow_ = true;
    auto first = std::async(std::launch::async, [&] { return instance_.load({}); });
    ASSERT_TRUE(eventually([&] { return loads_ == 1; }));
    const Status second = instance_.load({});
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().kind(), ErrorKind::busy);
    EXPECT_EQ(instance_.state(), ServiceState::not_started);
    EXPECT_EQ(need(instance_.stop({})).kind, Outcome::Kind::stopped) << "a load does not hold up the end";
    slow_ = false;
    EXPECT_FALSE(first.get().has_value());
    EXPECT_EQ(loads_, 1);
}

TEST_F(InstanceWithoutMachine, AStopEndsItForGood) {
    EXPECT_FALSE(instance_.wait_ended(SteadyClock::now()).has_value());
    const Outcome outcome = need(instance_.stop({}));
    EXPECT_EQ(outcome.kind, Outcome::Kind::stopped);
    EXPECT_EQ(outcome.exit_code(), 0);
    EXPECT_EQ(instance_.state(), ServiceState::ended);
    EXPECT_EQ(instance_.stats().outcome->kind, Outcome::Kind::stopped);
    const Status loaded = instance_.load({});
    ASSERT_FALSE(loaded.has_value());
    EXPECT_EQ(loaded.error().kind(), ErrorKind::usage);
    EXPECT_EQ(loads_, 0);
    const Status paused = instance_.pause();
    ASSERT_FALSE(paused.has_value());
    EXPECT_EQ(paused.error().message(), "the machine has ended (stopped)");
}

TEST_F(InstanceWithoutMachine, HowItEndedFirstStays) {
    instance_.end({.kind = Outcome::Kind::timed_out, .code = 124, .error = {}});
    instance_.end(stopped());
    EXPECT_EQ(instance_.wait_ended(SteadyClock::now())->exit_code(), 124);
    EXPECT_EQ(need(instance_.stop({})).kind, Outcome::Kind::timed_out);
}

TEST_F(InstanceWithoutMachine, TheEndWakesAllWhoWait) {
    auto machine =
        std::async(std::launch::async, [&] { return instance_.wait_machine(SteadyClock::time_point::max()); });
    auto ended = std::async(std::launch::async, [&] { return instance_.wait_ended(SteadyClock::time_point::max()); });
    auto exit = std::async(std::launch::async,
                           [&] { return instance_.wait({.what = WaitFor::exit, .regex = {}, .timeout = 1h}, {}); });
    auto ready = std::async(std::launch::async,
                            [&] { return instance_.wait({.what = WaitFor::ready, .regex = {}, .timeout = 1h}, {}); });
    instance_.end(stopped());
    EXPECT_EQ(machine.get(), nullptr);
    EXPECT_EQ(ended.get()->kind, Outcome::Kind::stopped);
    EXPECT_EQ(need(exit.get())->outcome.kind, Outcome::Kind::stopped);
    EXPECT_FALSE(ready.get().has_value()) << "it cannot get ready any more";
}

TEST_F(InstanceWithoutMachine, AWaitEndsAtItsTimeoutAndWithItsClient) {
    for (const WaitFor what : {WaitFor::ready, WaitFor::exit}) {
        EXPECT_FALSE(need(instance_.wait({.what = what, .regex = {}, .timeout = 1ms}, {})).has_value());
        EXPECT_FALSE(need(instance_.wait({.what = what, .regex = {}, .timeout = 1h}, [] { return true; })).has_value());
    }
    EXPECT_EQ(instance_.wait_machine(SteadyClock::now()), nullptr);
}

}  // namespace
}  // namespace snapvm::test
