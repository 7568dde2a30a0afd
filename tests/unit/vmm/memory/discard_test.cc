// SPDX-License-Identifier: Apache-2.0
// Pages that are given back to the host, by what backs them, and what snapshots, live rounds and
// detach do with such machines.
#include <algorithm>

#include "snapshot/report/verify.h"
#include "snapshot/restore/detach.h"
#include "snapshot/write/copy_before_write.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/memory/population.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;
constexpr std::uint64_t kUnit = kHugePageSize / kPageSize;

std::vector<Population> scan(const MemoryBlock& block, std::uint64_t first, std::uint64_t count) {
    std::vector<Population> out(count);
    EXPECT_TRUE(ok(PopulationScanner::open()->scan(block, first, out)));
    return out;
}
bool untouched(const MemoryBlock& block, std::uint64_t first, std::uint64_t count) {
    return std::ranges::count(scan(block, first, count), Population::untouched) == static_cast<std::ptrdiff_t>(count);
}
bool reads_zero(const MemoryBlock& block, std::uint64_t first, std::uint64_t count) {
    const auto bytes = block.bytes().subspan(first * kPageSize, count * kPageSize);
    return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}
bool marked(MemoryBlock& block, std::uint64_t page) {
    std::vector<std::uint64_t> words((block.spec().pages() + 63) / 64);
    block.marks().peek(words);
    return (words[page / 64] >> page % 64 & 1) != 0;
}
void fill_block(MemoryBlock& block) { std::ranges::fill(block.bytes(), std::byte{7}); }

void expect_given_up(MemoryBlock block) {
    fill_block(block);
    ASSERT_OK(block.discard(3, 5, PageType::balloon));
    EXPECT_TRUE(untouched(block, 3, 5));
    EXPECT_EQ(scan(block, 2, 1)[0], Population::own);
    EXPECT_EQ(scan(block, 8, 1)[0], Population::own);
    EXPECT_EQ(block.types().get(2), PageType::normal);
    EXPECT_EQ(block.types().get(3), PageType::balloon);
    EXPECT_TRUE(marked(block, 3) && marked(block, 7) && !marked(block, 2) && !marked(block, 8));
    EXPECT_TRUE(reads_zero(block, 3, 5));
    EXPECT_EQ(block.page(2)[0], std::byte{7});
    block.reclaim(3, 2);
    EXPECT_EQ(block.types().get(4), PageType::normal);
    EXPECT_EQ(block.types().get(5), PageType::balloon);
    EXPECT_TRUE(fails(block.discard(block.spec().pages() - 1, 2, PageType::free), ErrorKind::invalid));
    EXPECT_TRUE(fails(block.discard(~0ULL, 2, PageType::free), ErrorKind::invalid));
}

TEST(GiveUp, AnonymousMemory) {
    expect_given_up(*MemoryBlock::anonymous({kLow, Gpa{0}, 64 * kPageSize}, PagePolicy::small_pages));
}

TEST(GiveUp, AMemfd) { expect_given_up(*MemoryBlock::memfd({kLow, Gpa{0}, 64 * kPageSize})); }

TEST(GiveUp, NothingWhileSomebodyHoldsIt) {
    const auto block = *MemoryBlock::anonymous({kLow, Gpa{0}, 64 * kPageSize}, PagePolicy::small_pages);
    EXPECT_TRUE(block.discards().enter().has_value());
    {
        const DiscardGate::Hold one(block.discards());
        DiscardGate::Hold two(block.discards());
        EXPECT_FALSE(block.discards().enter().has_value());
        const DiscardGate::Hold moved(std::move(two));
        EXPECT_FALSE(block.discards().enter().has_value());
    }
    EXPECT_TRUE(block.discards().enter().has_value());
}

/// A machine of 8 MiB whose first 4 MiB have data, its snapshot, and restored ones.
class GiveUpRestored : public SnapshotTest {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        for (std::uint64_t page = 0; page < 2 * kUnit; ++page) {
            machine_.fill(kLow, page, page);
        }
        ASSERT_OK(write_snapshot(machine_, area(), {}));
    }
    FakeMachine restored(const std::string& name = "area") {
        auto snapshot = open_snapshot(area(name), {});
        EXPECT_TRUE(snapshot.has_value());
        return FakeMachine(*std::move(snapshot));
    }
    static std::uint64_t count(const SnapshotReport& report, PageClass page_class) {
        return report.pages[static_cast<std::size_t>(page_class)];
    }
    void expect_sound(const std::string& name) {
        const auto verified = verify_area(area(name));
        ASSERT_OK(verified);
        EXPECT_TRUE(verified->faults.empty()) << verified->faults.front();
    }
    FakeMachine machine_;
};

// Trap: MADV_DONTNEED on a private file mapping brings the snapshot's old bytes back.
TEST_F(GiveUpRestored, OldBytesDoNotComeBack) {
    FakeMachine clone = restored();
    MemoryBlock& block = clone.block(kLow);
    clone.fill(kLow, 9, 99);
    ASSERT_OK(block.discard(9, 2, PageType::balloon));          // written since, and not
    ASSERT_OK(block.discard(kUnit - 1, kUnit + 2, PageType::free));  // a page, 2 MiB, and a page without data
    EXPECT_TRUE(reads_zero(block, 9, 2));
    EXPECT_TRUE(untouched(block, kUnit, kUnit + 1)) << "the host has them back";
    EXPECT_TRUE(reads_zero(block, kUnit - 1, kUnit + 2));
    EXPECT_EQ(block.page(8)[0], machine_.block(kLow).page(8)[0]);
    EXPECT_TRUE(marked(block, 9) && marked(block, 2 * kUnit));
    const auto report = write_snapshot(clone, area("b"), {});
    ASSERT_OK(report);
    EXPECT_EQ(count(*report, PageClass::balloon), 2U);
    EXPECT_EQ(count(*report, PageClass::free), kUnit + 2);
    expect_sound("b");
    FakeMachine again = restored("b");
    expect_same_memory(clone, again);
}

// The same machine is restored twice. Discarded pages stay discarded until they are reclaimed or
// used.
TEST_F(GiveUpRestored, TheClassOutlivesRestores) {
    {
        FakeMachine first = restored();
        ASSERT_OK(first.block(kLow).discard(0, kUnit, PageType::balloon));
        ASSERT_OK(first.block(kLow).discard(kUnit, 4, PageType::free));
        ASSERT_OK(write_snapshot(first, area("b"), {}));
    }
    FakeMachine second = restored("b");
    second.block(kLow).reclaim(0, 2);     // and not used
    second.fill(kLow, 3, 5);                // used without a word
    second.fill(kLow, kUnit, 6);
    const auto report = write_snapshot(second, area("c"), {});
    ASSERT_OK(report);
    EXPECT_EQ(count(*report, PageClass::balloon), kUnit - 3);
    EXPECT_EQ(count(*report, PageClass::free), 3U);
    expect_sound("c");
    FakeMachine third = restored("c");
    expect_same_memory(second, third);
}

TEST_F(GiveUpRestored, TakenBackIsZerosNotTheOrigins) {
    FakeMachine clone = restored();
    ASSERT_OK(clone.block(kLow).discard(0, 2 * kUnit, PageType::balloon));
    clone.block(kLow).reclaim(0, 2 * kUnit);
    const auto report = write_snapshot(clone, area("b"), {});
    ASSERT_OK(report);
    EXPECT_EQ(count(*report, PageClass::common), 0U);
    EXPECT_EQ(count(*report, PageClass::absent), report->pages[0]);
    expect_sound("b");
    FakeMachine again = restored("b");
    expect_same_memory(clone, again);
}

TEST_F(GiveUpRestored, DetachTakesNoneOfItAndLosesNoClass) {
    {
        FakeMachine first = restored();
        ASSERT_OK(first.block(kLow).discard(5, 3, PageType::balloon));
        ASSERT_OK(write_snapshot(first, area("b"), {}));
    }
    FakeMachine clone = restored("b");
    ASSERT_OK(clone.block(kLow).discard(kUnit, kUnit, PageType::free));
    ASSERT_OK(clone.block(kLow).discard(20, 1, PageType::free));
    FakeMachine twin = restored("b");
    ASSERT_OK(twin.block(kLow).discard(kUnit, kUnit, PageType::free));
    ASSERT_OK(twin.block(kLow).discard(20, 1, PageType::free));
    // While it is on its way: as the freeze begins, the first 2 MiB have been read already.
    bool once = false;
    clone.on_freeze = [&] {
        if (!std::exchange(once, true)) {
            for (FakeMachine* machine : {&clone, &twin}) {
                ASSERT_OK(machine->block(kLow).discard(0, kUnit, PageType::balloon));
            }
        }
    };
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    EXPECT_TRUE(untouched(clone.block(kLow), 0, 2 * kUnit));
    expect_same_memory(clone, twin);
    ASSERT_OK(clone.block(kLow).discard(30, 1, PageType::balloon));
    const auto report = write_snapshot(clone, area("c"), {});
    ASSERT_OK(report);
    EXPECT_EQ(count(*report, PageClass::balloon), kUnit);
    EXPECT_EQ(count(*report, PageClass::free), kUnit);
    EXPECT_EQ(count(*report, PageClass::common), 0U);
    expect_sound("c");
}

TEST_F(GiveUpRestored, DetachKeepsTheClassesOfTheSnapshotBehind) {
    {
        FakeMachine first = restored();
        ASSERT_OK(first.block(kLow).discard(5, 3, PageType::balloon));
        ASSERT_OK(first.block(kLow).discard(kUnit, kUnit, PageType::free));
        ASSERT_OK(write_snapshot(first, area("b"), {}));
    }
    FakeMachine clone = restored("b");
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    const auto report = write_snapshot(clone, area("c"), {});
    ASSERT_OK(report);
    EXPECT_EQ(count(*report, PageClass::balloon), 3U);
    EXPECT_EQ(count(*report, PageClass::free), kUnit);
}

// A page is reported free and used again without notice, before, in and after every round. Its type
// must not lose its contents.
TEST_F(GiveUpRestored, WhatIsUsedAgainWithoutAWordIsKept) {
    MemoryBlock& block = machine_.block(kLow);
    ASSERT_OK(block.discard(0, 64, PageType::free));
    machine_.fill(kLow, 1, 1);  // used before the snapshot
    int step = 0;
    SnapshotMonitor monitor;
    WriteOptions options;
    options.monitor = &monitor;
    options.hook = [&](const IoEvent& event) {
        if (event.step == IoStep::pages && monitor.phase == SnapshotPhase::copying && step < 30) {
            ++step;
            machine_.fill(kLow, static_cast<std::uint64_t>(step) + 2, 77);  // used while it is made
            if (step % 3 == 0) {
                EXPECT_TRUE(ok(block.discard(static_cast<std::uint64_t>(step) + 100, 1, PageType::free)));
            }
            if (step % 6 == 0) {
                machine_.fill(kLow, static_cast<std::uint64_t>(step) + 100, 78);
            }
        }
        return io::Fault{};
    };
    const auto report = write_snapshot(machine_, area("live"), options);
    ASSERT_OK(report);
    EXPECT_GT(step, 0);
    expect_sound("live");
    FakeMachine again = restored("live");
    expect_same_memory(machine_, again);
}

// Trap: a free-page hint is treated as a discard. A hint only omits a copy, and later writes of the
// guest count.
TEST_F(GiveUpRestored, AHintLeavesOutACopyAndNothingElse) {
    machine_.on_asked_for_free_pages = [&](DirtySet& into) {
        for (std::uint64_t page = 10; page < 20; ++page) {
            into.add(0, page);
        }
        machine_.fill(kLow, 12, 5);  // used again before the first round comes to it
    };
    WriteOptions options;
    bool once = false;
    options.hook = [&](const IoEvent& event) {
        if (event.step == IoStep::pages && !std::exchange(once, true)) {
            machine_.fill(kLow, 15, 6);  // and after
        }
        return io::Fault{};
    };
    for (const char* name : {"area", "fresh"}) {  // over data of these pages, and over nothing
        const auto report = write_snapshot(machine_, area(name), options);
        ASSERT_OK(report);
        EXPECT_EQ(count(*report, PageClass::free), name == std::string("area") ? 8U : 9U);
        expect_sound(name);
        FakeMachine again = restored(name);
        EXPECT_TRUE(reads_zero(again.block(kLow), 10, 2));
        EXPECT_TRUE(reads_zero(again.block(kLow), 16, 4));
        for (const std::uint64_t page : {std::uint64_t{9}, std::uint64_t{12}, std::uint64_t{20}}) {
            EXPECT_TRUE(std::ranges::equal(again.block(kLow).page(page), machine_.block(kLow).page(page))) << page;
        }
        EXPECT_FALSE(reads_zero(machine_.block(kLow), 10, 1)) << "the machine's own is as it was";
    }
}

// Trap: a balloon change during a write-protect window. None happens in one.
TEST_F(GiveUpRestored, NoPageIsGivenUpInAProtectWindow) {
    auto guard = CopyBeforeWrite::prepare(machine_.memory(), 0);
    if (!guard) {
        GTEST_SKIP() << "userfaultfd cannot be used here: " << guard.error().message();
    }
    EXPECT_FALSE(machine_.block(kLow).discards().enter().has_value());
    guard->reset();
    EXPECT_TRUE(machine_.block(kLow).discards().enter().has_value());
}

}  // namespace
}  // namespace snapvm::test
