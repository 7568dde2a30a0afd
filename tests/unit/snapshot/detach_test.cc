// SPDX-License-Identifier: Apache-2.0
// A restored machine detaches from its snapshot while it runs, and has the same memory afterwards.
#include "snapshot/restore/detach.h"

#include <fstream>

#include "snapshot/report/inspect.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;
constexpr std::uint64_t kPages = (64ULL << 20) / kPageSize;

class Detach : public SnapshotTest {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        // Runs of pages with data, repeated ones among them, zero ones, absent ones.
        for (std::uint64_t page = 0; page < kPages; page += 3) {
            page % 2 == 0 ? machine_.fill(kLow, page, page % 9 == 0 ? 1 : page) : machine_.clear(kLow, page);
        }
        ASSERT_OK(write_snapshot(machine_, area(), with_slots(1)));
    }
    FakeMachine restored() {
        auto snapshot = open_snapshot(area(), {.max_overlays = 0});
        EXPECT_TRUE(snapshot.has_value());
        return FakeMachine(*std::move(snapshot));
    }
    std::uint64_t data_offset() const {
        const auto info = inspect_area(area());
        return info->superblocks[*info->chosen]
            .valid->find(SectionKind::data, static_cast<std::uint32_t>(kLow))
            ->offset;
    }

    FakeMachine machine_{64ULL << 20};
};

TEST_F(Detach, HoldsTheSameAndTheAreaIsFree) {
    FakeMachine clone = restored();
    clone.fill(kLow, 6, 77);
    machine_.fill(kLow, 6, 77);
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), {}), ErrorKind::busy, "maps the snapshot"));
    const auto report = detach_snapshot(clone, clone.mutable_memory());
    ASSERT_OK(report);
    EXPECT_TRUE(report->mapped);
    EXPECT_GE(report->read_pages, kPages / 6 - 1);
    EXPECT_GE(report->copied_pages, 1U);
    EXPECT_EQ(report->freezes, static_cast<std::uint64_t>(clone.thaws));
    EXPECT_EQ(clone.frozen, 0);
    expect_same_memory(machine_, clone);
    for (const MemoryBlock& block : clone.memory().blocks()) {
        EXPECT_EQ(block.origin(), nullptr);
        EXPECT_EQ(block.backing(), MemoryBlock::Backing::anonymous);
    }
    // The new snapshot overwrites the one that the machine came from. Afterwards neither contents
    // nor length of the file matter to the machine.
    ASSERT_OK(write_snapshot(clone, area(), {}));
    std::filesystem::resize_file(area().path, 4096);
    expect_same_memory(machine_, clone);
}

TEST_F(Detach, ASecondOneHasNothingToDo) {
    FakeMachine clone = restored();
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    const auto again = detach_snapshot(clone, clone.mutable_memory());
    ASSERT_OK(again);
    EXPECT_FALSE(again->mapped);
    EXPECT_EQ(again->freezes, 0U);
}

TEST_F(Detach, PagesWithoutDataStayUntouched) {
    FakeMachine clone = restored();
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    const auto report = write_snapshot(clone, area("other"), {});
    ASSERT_OK(report);
    EXPECT_EQ(report->pages[static_cast<std::size_t>(PageClass::zero)], 0U);
    EXPECT_GE(report->pages[static_cast<std::size_t>(PageClass::absent)], kPages / 2);
}

// A page is written between the copy from the snapshot and the freeze. The guest's write must stay.
TEST_F(Detach, WhatTheGuestWritesMeanwhileStays) {
    FakeMachine clone = restored();
    std::uint64_t unit = 0;
    clone.on_freeze = [&] {
        clone.fill(kLow, unit * 512 + 6, 99);
        machine_.fill(kLow, unit * 512 + 6, 99);
        clone.fill(kLow, unit * 512 + 1, 98);
        machine_.fill(kLow, unit * 512 + 1, 98);
        unit = std::min<std::uint64_t>(unit + 1, kPages / 512 - 1);
    };
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    expect_same_memory(machine_, clone);
}

TEST_F(Detach, ADamagedPageStopsItAndTheMachineGoesOnPinned) {
    {
        std::fstream file(area().path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(data_offset() + 6000 * kPageSize + 5));
        file.put('\x5A');
    }
    FakeMachine clone = restored();
    EXPECT_TRUE(fails(detach_snapshot(clone, clone.mutable_memory()), ErrorKind::invalid, "page 6000 "));
    EXPECT_EQ(clone.frozen, 0);
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), {}), ErrorKind::busy, "maps the snapshot"));
    machine_.mutable_memory().blocks()[0].host()[6000 * kPageSize + 5] = std::byte{0x5A};
    expect_same_memory(machine_, clone);  // half of it moved already
}

TEST_F(Detach, TellsHowFarItIsAndIsCalledOff) {
    FakeMachine clone = restored();
    SnapshotMonitor monitor;
    clone.on_freeze = [&] {
        EXPECT_EQ(monitor.phase, SnapshotPhase::detaching);
        EXPECT_GE(monitor.round_pages, kPages);
        if (monitor.round_done > 0) {
            monitor.cancel();
        }
    };
    EXPECT_TRUE(fails(detach_snapshot(clone, clone.mutable_memory(), &monitor), ErrorKind::cancelled, "called off"));
    EXPECT_GT(monitor.round_done, 0U);
    EXPECT_LT(monitor.round_done, monitor.round_pages);
    expect_same_memory(machine_, clone);
    EXPECT_TRUE(fails(write_snapshot(machine_, area(), {}), ErrorKind::busy, "maps the snapshot"));
    clone.on_freeze = nullptr;
    SnapshotMonitor again;
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory(), &again));
    EXPECT_EQ(again.round_done, again.round_pages);
    expect_same_memory(machine_, clone);
}

TEST_F(Detach, IsCalledOffWhileADiskIsWaitedFor) {
    FakeMachine clone = restored();
    SnapshotMonitor monitor;
    clone.on_quiesce = [&](const std::function<Status()>& check_cancelled) -> Status {
        monitor.cancel();
        return check_cancelled();
    };
    EXPECT_TRUE(fails(detach_snapshot(clone, clone.mutable_memory(), &monitor), ErrorKind::cancelled));
    EXPECT_EQ(clone.frozen, 0);
    EXPECT_EQ(clone.quiesced, 0);
    expect_same_memory(machine_, clone);
}

TEST_F(Detach, AMachineThatHasEndedIsLeftAlone) {
    FakeMachine clone = restored();
    clone.fail_freeze = true;
    EXPECT_TRUE(fails(detach_snapshot(clone, clone.mutable_memory()), ErrorKind::system, "freeze failed"));
    expect_same_memory(machine_, clone);
    clone.fail_freeze = false;
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    expect_same_memory(machine_, clone);
}

}  // namespace
}  // namespace snapvm::test
