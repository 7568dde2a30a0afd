// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/tsc.h"

#include <gtest/gtest.h>

namespace snapvm {
namespace {

TEST(Tsc, FrequenciesWithinKvmsToleranceAreOne) {
    EXPECT_TRUE(same_tsc_frequency(2'600'000, 2'600'000));
    EXPECT_TRUE(same_tsc_frequency(2'600'650, 2'600'000));
    EXPECT_FALSE(same_tsc_frequency(2'600'651, 2'600'000));
    EXPECT_FALSE(same_tsc_frequency(2'599'349, 2'600'000));
    EXPECT_FALSE(same_tsc_frequency(4'294'967'295, 1));
    EXPECT_TRUE(same_tsc_frequency(0, 2'600'000));
    EXPECT_TRUE(same_tsc_frequency(2'600'000, 0));
}

TEST(Tsc, CyclesOfACenturyDoNotOverflow) {
    EXPECT_EQ(tsc_cycles(1'000'000, 2'600'000), 2'600'000U);
    EXPECT_EQ(tsc_cycles(3'155'760'000'000'000'000, 4'000'000), 12'623'040'000'000'000'000U);
}

TEST(Tsc, SetIsWhatReadsBack) {
    constexpr std::uint32_t kKhz = 2'000'000;
    constexpr std::uint64_t kWanted = 1ULL << 40, kMs = 2'000'000;
    EXPECT_TRUE(tsc_was_set(kWanted, kWanted, 0, kKhz));
    EXPECT_TRUE(tsc_was_set(kWanted, kWanted + 5 * kMs, 0, kKhz));
    EXPECT_TRUE(tsc_was_set(kWanted, kWanted - 5 * kMs, 0, kKhz));
    EXPECT_TRUE(tsc_was_set(kWanted, kWanted + 500 * kMs, 500'000'000, kKhz));
    EXPECT_FALSE(tsc_was_set(kWanted, kWanted + 11 * kMs, 0, kKhz));
    EXPECT_FALSE(tsc_was_set(kWanted, kWanted - 11 * kMs, 0, kKhz));
    EXPECT_FALSE(tsc_was_set(kWanted, 0, 0, kKhz));
    EXPECT_TRUE(tsc_was_set(1000, 0, 0, kKhz));  // across zero
}

TEST(Tsc, ADeadlineKeepsTheTimeItHasLeft) {
    constexpr std::uint64_t kMax = ~std::uint64_t{0};
    EXPECT_EQ(move_deadline(1'100, 1'000, 50'000), 50'100U);  // the host's TSC is ahead
    EXPECT_EQ(move_deadline(50'100, 50'000, 1'000), 1'100U);  // the host has started again
    EXPECT_EQ(move_deadline(900, 1'000, 50'000), 49'900U);    // passed already: by the gap that the guest is shown
    EXPECT_EQ(move_deadline(900, 1'000, 100), 1U);
    EXPECT_EQ(move_deadline(0, 1'000, 50'000), 0U);  // none
    EXPECT_EQ(move_deadline(kMax, 1'000, 50'000), kMax);
}

}  // namespace
}  // namespace snapvm
