// SPDX-License-Identifier: Apache-2.0
#include "vmm/doctor/timing.h"

#include <gtest/gtest.h>

#include <array>

namespace snapvm::doctor {
namespace {

TEST(DoctorTiming, MedianIsTheMiddleOne) {
    EXPECT_EQ(median({3}), 3);
    EXPECT_EQ(median({9, 1, 5}), 5);
    EXPECT_EQ(median({4, 1, 3, 2}), 3);
}

TEST(DoctorTiming, AnInstructionIsTheLoopWithoutItsExit) {
    const std::array pairs{ExitPair{10, 18}, ExitPair{11, 19}, ExitPair{9, 17}};
    EXPECT_EQ(exit_us(pairs), 10);
    EXPECT_EQ(loop_us(pairs), 8);
    EXPECT_EQ(instruction_ns(pairs, 8000), 1.0);
}

// One early exit of 120 us, as before the caches are warm, is more than each loop with its own.
TEST(DoctorTiming, OneSlowExitDoesNotHideTheLoops) {
    const std::array pairs{ExitPair{120, 100}, ExitPair{60, 100}, ExitPair{60, 101}, ExitPair{60, 99},
                           ExitPair{60, 100}};
    ASSERT_TRUE(instruction_ns(pairs, 1000).has_value());
    EXPECT_EQ(*instruction_ns(pairs, 1000), 40);
}

TEST(DoctorTiming, WhatDisturbsTwoOfFiveLoopsDoesNotCount) {
    const std::array pairs{ExitPair{10, 18}, ExitPair{10, 9000}, ExitPair{10, 18}, ExitPair{700, 18}, ExitPair{10, 18}};
    EXPECT_EQ(loop_us(pairs), 8);
}

TEST(DoctorTiming, NoDifferenceIsNoMeasurement) {
    EXPECT_FALSE(instruction_ns(std::array{ExitPair{10, 10}}, 1000).has_value());
    EXPECT_FALSE(instruction_ns(std::array{ExitPair{10, 9}, ExitPair{10, 8}, ExitPair{10, 30}}, 1000).has_value());
}

TEST(DoctorTiming, ALoopStandsOutWhenItCostsFourExits) {
    EXPECT_FALSE(loop_stands_out(std::array{ExitPair{10, 10}}));
    EXPECT_FALSE(loop_stands_out(std::array{ExitPair{10, 49}}));
    EXPECT_TRUE(loop_stands_out(std::array{ExitPair{10, 50}}));
}

}  // namespace
}  // namespace snapvm::doctor
