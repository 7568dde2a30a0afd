// SPDX-License-Identifier: Apache-2.0
// When the hint is said: what counts is the time in which the guest runs. tests/kvm has its other
// cases, with machines.
#include "vmm/host/driver_hint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "vmm/config/machine_config.h"

namespace snapvm::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
constexpr auto kEver = Clock::time_point::max();

// A machine with one virtio device that no driver works with. Its state changes with each wait for
// its end, which comes when it is waited for without a limit.
class FakeMachine {
public:
    enum class State : std::uint8_t { running, paused };

    explicit FakeMachine(std::vector<State> states) : states_(std::move(states)) { config_.devices.rng = true; }

    [[nodiscard]] State state() const { return states_[std::min(waits_, states_.size() - 1)]; }
    [[nodiscard]] const MachineConfig& config() const { return config_; }
    [[nodiscard]] static bool had_driver() { return false; }
    std::optional<Outcome> wait_ended(Clock::time_point deadline) const {
        if (deadline == kEver) {
            return Outcome{};
        }
        if (state() == State::running) {
            std::this_thread::sleep_until(deadline);
        }
        ++waits_;
        return std::nullopt;
    }
    [[nodiscard]] std::size_t waits() const { return waits_; }

private:
    std::vector<State> states_;  ///< before each wait, and from the last one on
    MachineConfig config_;
    mutable std::size_t waits_ = 0;
};

using State = FakeMachine::State;

class DriverHintTime : public testing::Test {
protected:
    DriverHint<FakeMachine> hint(const FakeMachine& machine) {
        return {machine, [&](const std::string&) { said_after_.push_back(machine.waits()); }};
    }
    std::vector<std::size_t> said_after_;  ///< number of waits before each hint
};

TEST_F(DriverHintTime, IsThatOfTheGuestThatRuns) {
    const FakeMachine machine({State::running});
    EXPECT_TRUE(hint(machine).wait_ended(1ms, kEver).has_value());
    EXPECT_EQ(said_after_, std::vector<std::size_t>{1});
}

TEST_F(DriverHintTime, DoesNotCountAPauseNorWhatItCutsOff) {
    const FakeMachine machine({State::running, State::paused, State::paused, State::running});
    EXPECT_TRUE(hint(machine).wait_ended(1ms, kEver).has_value());
    EXPECT_EQ(said_after_, std::vector<std::size_t>{4}) << "the only wait in which it ran from begin to end";
}

TEST_F(DriverHintTime, EndsWithTheDeadlineOfAMachineThatStaysPaused) {
    const FakeMachine machine({State::paused});
    EXPECT_FALSE(hint(machine).wait_ended(1ns, Clock::now() + 1ms).has_value());
    EXPECT_TRUE(said_after_.empty());
}

}  // namespace
}  // namespace snapvm::test
