// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/input_gate.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>

namespace snapvm {
namespace {

using namespace std::chrono_literals;
using Deferred = InputGate::Deferred;

InputGate::Deadline in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
InputGate::Deadline soon() { return in(30s); }

TEST(InputGate, IsOpenAtFirst) {
    InputGate gate;
    bool ran = false;
    EXPECT_TRUE(gate.pass(in(0ms), [&] { ran = true; }));
    EXPECT_TRUE(ran);
    ran = false;
    gate.pass_or_defer(Deferred::balloon, [&] { ran = true; });
    EXPECT_TRUE(ran);
}

TEST(InputGate, KeepsOutWhileClosed) {
    InputGate gate;
    gate.close();
    std::atomic<bool> ran = false;
    EXPECT_FALSE(gate.pass(in(5ms), [&] { ran = true; }));
    auto waiting = std::async(std::launch::async, [&] { return gate.pass(soon(), [&] { ran = true; }); });
    EXPECT_EQ(waiting.wait_for(20ms), std::future_status::timeout);
    EXPECT_FALSE(ran);
    gate.open();
    EXPECT_TRUE(waiting.get());
    EXPECT_TRUE(ran);
}

TEST(InputGate, RunsWhatWasDeferredInOrderAndTheNewestOfAKind) {
    InputGate gate;
    gate.close();
    std::string ran;
    gate.pass_or_defer(Deferred::console_size, [&] { ran += "old size,"; });
    gate.pass_or_defer(Deferred::serial_output, [&] { ran += "output,"; });
    gate.pass_or_defer(Deferred::balloon, [&] { ran += "balloon,"; });
    gate.pass_or_defer(Deferred::console_size, [&] { ran += "size,"; });
    EXPECT_EQ(ran, "");
    gate.open();
    EXPECT_EQ(ran, "output,balloon,size,");
    gate.close();
    gate.open();
    EXPECT_EQ(ran, "output,balloon,size,") << "once";
}

TEST(InputGate, ClosesBehindAnActionThatRuns) {
    InputGate gate;
    std::promise<void> entered;
    std::promise<void> leave;
    auto inside = std::async(std::launch::async, [&] {
        return gate.pass(soon(), [&] {
            entered.set_value();
            leave.get_future().wait();
        });
    });
    entered.get_future().wait();
    auto closing = std::async(std::launch::async, [&] { gate.close(); });
    EXPECT_EQ(closing.wait_for(20ms), std::future_status::timeout);
    leave.set_value();
    closing.get();
    EXPECT_TRUE(inside.get());
    EXPECT_FALSE(gate.pass(in(0ms), [] {}));
}

TEST(InputGate, FeedsWhatIsTakenBitByBit) {
    InputGate gate;
    const std::array<std::uint8_t, 10> bytes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    std::vector<std::uint8_t> taken;
    unsigned calls = 0;
    EXPECT_EQ(gate.feed(bytes, soon(),
                        [&](std::span<const std::uint8_t> part) -> std::size_t {
                            const std::size_t room = ++calls % 2 == 0 ? 0 : std::min<std::size_t>(3, part.size());
                            taken.insert(taken.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(room));
                            return room;
                        }),
              bytes.size());
    EXPECT_EQ(taken, std::vector<std::uint8_t>(bytes.begin(), bytes.end()));
    EXPECT_EQ(gate.feed(bytes, in(5ms), [](auto) { return std::size_t{0}; }), 0U) << "nothing is taken in time";
}

TEST(InputGate, EndsFeedsThatWait) {
    for (const bool closed : {true, false}) {
        InputGate gate;
        if (closed) {
            gate.close();
        }
        const std::array<std::uint8_t, 2> bytes{};
        auto feeding = std::async(std::launch::async,
                                  [&] { return gate.feed(bytes, soon(), [](auto) { return std::size_t{0}; }); });
        EXPECT_EQ(feeding.wait_for(20ms), std::future_status::timeout);
        gate.end();
        EXPECT_EQ(feeding.get(), 0U);
        EXPECT_EQ(gate.feed(bytes, soon(), [](auto part) { return part.size(); }), 0U) << "for good";
        // Nothing waits any more; what needs no wait still passes.
        EXPECT_EQ(gate.pass(soon(), [] {}), !closed);
    }
}

}  // namespace
}  // namespace snapvm
