// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/fault_ranges.h"

#include <gtest/gtest.h>

namespace snapvm {
namespace {

using Pieces = std::vector<FaultRanges::Piece>;

constexpr FaultKinds kMissing = FaultKind::missing;
constexpr FaultKinds kProtect = FaultKind::write_protect;
constexpr FaultKinds kBoth = kMissing | kProtect;

TEST(FaultRanges, NothingIsRegisteredAtFirst) {
    const FaultRanges ranges;
    EXPECT_EQ(ranges.pieces(7, 100), (Pieces{{7, 100, {}, 0}}));
}

TEST(FaultRanges, KindsOfOverlappingUsesAreJoined) {
    FaultRanges ranges;
    ranges.add(0, 100, kProtect);
    ranges.add(50, 100, kMissing);
    EXPECT_EQ(ranges.pieces(0, 200),
              (Pieces{{0, 50, kProtect, 1}, {50, 50, kBoth, 2}, {100, 50, kMissing, 1}, {150, 50, {}, 0}}));
    EXPECT_EQ(ranges.pieces(60, 10), (Pieces{{60, 10, kBoth, 2}}));
}

// The kernel takes no kind away from a range, so a piece keeps them until its last use ends.
TEST(FaultRanges, KindsStayUntilTheLastUseEnds) {
    FaultRanges ranges;
    ranges.add(0, 100, kProtect);
    ranges.add(20, 10, kMissing);
    ranges.remove(0, 100);
    EXPECT_EQ(ranges.pieces(0, 100), (Pieces{{0, 20, {}, 0}, {20, 10, kBoth, 1}, {30, 70, {}, 0}}));
    ranges.add(0, 100, kMissing);
    ranges.remove(20, 10);
    EXPECT_EQ(ranges.pieces(0, 100), (Pieces{{0, 20, kMissing, 1}, {20, 10, kBoth, 1}, {30, 70, kMissing, 1}}));
    ranges.remove(0, 100);
    EXPECT_EQ(ranges.pieces(0, 1000), (Pieces{{0, 1000, {}, 0}})) << "equal neighbours become one piece";
}

TEST(FaultRanges, NeighboursWithEqualUsesBecomeOnePiece) {
    FaultRanges ranges;
    ranges.add(0, 10, kMissing);
    ranges.add(20, 10, kMissing);
    ranges.add(10, 10, kMissing);
    EXPECT_EQ(ranges.pieces(0, 40), (Pieces{{0, 30, kMissing, 1}, {30, 10, {}, 0}}));
}

}  // namespace
}  // namespace snapvm
