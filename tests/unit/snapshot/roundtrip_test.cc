// SPDX-License-Identifier: Apache-2.0
// What was written into an area is read from it again.
#include <sys/stat.h>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

class RoundTrip : public SnapshotTest {
protected:
    // A machine with pages of every class that there is without a balloon, and the snapshot's own
    // count of them.
    static void populate(FakeMachine& machine) {
        machine.fill(BlockId::ram_low, 0, 1);
        for (std::uint64_t page = 3; page < 300; ++page) {
            machine.fill(BlockId::ram_low, page, 1);
        }
        for (std::uint64_t page = 400; page < 410; ++page) {
            machine.clear(BlockId::ram_low, page);
        }
        machine.fill(BlockId::firmware, 2, 1);
        machine.fill(BlockId::vmgenid, 0, 1);
    }
    void expect_clean(const AreaPath& path) {
        const auto report = verify_area(path);
        ASSERT_OK(report);
        EXPECT_TRUE(report->faults.empty()) << report->faults.front();
    }
};

TEST_F(RoundTrip, EveryClassComesBack) {
    FakeMachine machine;
    populate(machine);
    machine.fill(BlockId::ram_low, 500, 1);
    ASSERT_OK(machine.block(BlockId::ram_low).discard(500, 1, PageType::balloon));
    ASSERT_OK(machine.block(BlockId::ram_low).discard(501, 1, PageType::free));
    const auto report = write_snapshot(machine, area(), {});
    ASSERT_OK(report);
    EXPECT_EQ(machine.frozen, 0);
    const auto count = [&](PageClass c) { return report->pages[static_cast<std::size_t>(c)]; };
    EXPECT_EQ(count(PageClass::common), 300U);
    EXPECT_EQ(count(PageClass::zero), 10U);
    EXPECT_EQ(count(PageClass::balloon), 1U);
    EXPECT_EQ(count(PageClass::free), 1U);
    EXPECT_EQ(count(PageClass::absent), 2048U + 16 + 1 - 312);
    EXPECT_EQ(report->area_bytes, *area_size(machine.config(), 1));
    struct stat info{};
    ASSERT_EQ(::stat(area().path.c_str(), &info), 0);
    EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), report->area_bytes);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    expect_clean(area());

    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    EXPECT_EQ(restored->saved.config, machine.config());
    EXPECT_EQ(restored->saved.records, machine.records());
    EXPECT_EQ(restored->snapshot_id, report->snapshot_id);
    FakeMachine again(*std::move(restored));
    machine.clear(BlockId::ram_low, 500);  // what was given up is not stored
    expect_same_memory(machine, again);
}

TEST_F(RoundTrip, RestoredAndUntouchedGivesTheSameEntriesAndData) {
    FakeMachine machine;
    populate(machine);
    machine.block(BlockId::ram_low).set_type(501, PageType::free);
    const auto first = write_snapshot(machine, area("a"), {});
    ASSERT_OK(first);
    auto restored = open_snapshot(area("a"));
    ASSERT_OK(restored);
    FakeMachine again(*std::move(restored));
    const auto second = write_snapshot(again, area("c"), {});
    ASSERT_OK(second);
    EXPECT_EQ(first->pages, second->pages);
    expect_clean(area("c"));
    const auto differences = compare_snapshots(area("a"), area("c"));
    ASSERT_OK(differences);
    EXPECT_TRUE(differences->empty()) << differences->front();

    again.fill(BlockId::ram_low, 7, 2);
    again.fill(BlockId::ram_low, 401, 2);
    ASSERT_OK(write_snapshot(again, area("b"), {}));
    expect_clean(area("b"));
    const auto changed = compare_snapshots(area("a"), area("b"));
    ASSERT_OK(changed);
    EXPECT_EQ(changed->size(), 2U);
    auto last = open_snapshot(area("b"));
    ASSERT_OK(last);
    FakeMachine third(*std::move(last));
    expect_same_memory(again, third);
}

// A page is found by its block and its number in it, not by an address counted from one
// start.
TEST_F(RoundTrip, MemoryOnBothSidesOfTheHole) {
    FakeMachine machine(5ULL << 30);
    const std::uint64_t low_pages = machine.block(BlockId::ram_low).spec().pages();
    const std::uint64_t high_pages = machine.block(BlockId::ram_high).spec().pages();
    for (const std::uint64_t page : {std::uint64_t{0}, std::uint64_t{700}, low_pages - 1}) {
        machine.fill(BlockId::ram_low, page, 1);
    }
    for (const std::uint64_t page : {std::uint64_t{0}, std::uint64_t{700}, high_pages - 1}) {
        machine.fill(BlockId::ram_high, page, 1);
    }
    const auto report = write_snapshot(machine, area(), {});
    ASSERT_OK(report);
    EXPECT_EQ(report->pages[static_cast<std::size_t>(PageClass::common)], 6U);
    struct stat info{};
    ASSERT_EQ(::stat(area().path.c_str(), &info), 0);
    EXPECT_LT(info.st_blocks * 512, 4 << 20) << "a sparse guest's area is to be sparse";
    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    EXPECT_GT(restored->overlays, 0U);
    FakeMachine again(*std::move(restored));
    for (const BlockId id : {BlockId::ram_low, BlockId::ram_high}) {
        const std::uint64_t last = machine.block(id).spec().pages() - 1;
        for (const std::uint64_t page : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{700}, last - 1, last}) {
            EXPECT_EQ(std::memcmp(machine.block(id).page(page).data(), again.block(id).page(page).data(), kPageSize), 0)
                << name_of(id) << " page " << page;
        }
    }
}

TEST_F(RoundTrip, OverwritingInPlaceLeavesNoOldBytes) {
    for (const std::uint32_t slots : {1U, 2U}) {
        const AreaPath path = area("slots" + std::to_string(slots));
        FakeMachine full;
        for (std::uint64_t page = 0; page < 2048; ++page) {
            full.fill(BlockId::ram_low, page, 1);
        }
        for (std::uint32_t i = 0; i < slots; ++i) {
            ASSERT_OK(write_snapshot(full, path, with_slots(slots)));
        }
        FakeMachine sparse;
        sparse.fill(BlockId::ram_low, 5, 2);
        sparse.clear(BlockId::ram_low, 6);
        ASSERT_OK(write_snapshot(sparse, path, {}));
        expect_clean(path);
        auto restored = open_snapshot(path, {.max_overlays = 0});  // nothing hides the file
        ASSERT_OK(restored);
        FakeMachine again(*std::move(restored));
        expect_same_memory(sparse, again);
    }
}

// Metadata, state, entries and pages of an older snapshot are not left in the area, neither behind
// a shorter section nor where another layout had one.
TEST_F(RoundTrip, OutsideOfTheSectionsAllIsZero) {
    const auto expect_zeros_between = [](const AreaPath& path) {
        const auto info = inspect_area(path);
        ASSERT_OK(info);
        ASSERT_TRUE(info->chosen.has_value());
        const Superblock& sb = *info->superblocks[*info->chosen].valid;
        std::string slot = read_file(path.path, 64U << 20)->substr(sb.slot_offset, sb.slot_size);
        for (const Section& section : sb.sections) {
            slot.replace(section.offset - sb.slot_offset, section.length, std::string(section.length, '\0'));
        }
        EXPECT_EQ(slot.find_first_not_of('\0'), std::string::npos) << "in the slot";
    };
    for (const std::uint32_t slots : {1U, 2U}) {
        for (const std::uint32_t cpus : {1U, 2U}) {  // areas for 1 and 2 have one size, and two layouts
            SCOPED_TRACE(std::to_string(slots) + " slots, " + std::to_string(cpus) + " vCPUs");
            FakeMachine old(8ULL << 20, cpus);
            populate(old);
            old.records()[0].bytes.assign(150000, std::byte{0x5A});
            WriteOptions options = with_slots(slots);
            options.metadata.assign(60001, 'x');
            const AreaPath path = area(std::to_string(slots) + std::to_string(cpus));
            for (std::uint32_t i = 0; i < slots; ++i) {
                ASSERT_OK(write_snapshot(old, path, options));
            }
            FakeMachine next(8ULL << 20, 1);
            next.fill(BlockId::ram_low, 5, 2);
            options.metadata = "short";
            ASSERT_OK(write_snapshot(next, path, options));
            expect_clean(path);
            expect_zeros_between(path);
        }
    }
}

TEST_F(RoundTrip, AtAnOffsetNeighboursStay) {
    const std::uint64_t size = *area_size(FakeMachine().config(), 1);
    const std::string path = area().path;
    const AreaPath middle{path, 12288};
    {
        const UniqueFd fd = *open_file(path, O_RDWR | O_CREAT, 0600);
        const std::vector<std::byte> before(12288, std::byte{0xAA});
        const std::vector<std::byte> after(8192, std::byte{0xBB});
        ASSERT_OK(write_all_at(fd.get(), before, 0, path));
        ASSERT_OK(write_all_at(fd.get(), after, 12288 + size, path));
    }
    FakeMachine machine;
    populate(machine);
    for (int i = 0; i < 2; ++i) {
        ASSERT_OK(write_snapshot(machine, middle, {}));
    }
    expect_clean(middle);
    auto restored = open_snapshot(middle);
    ASSERT_OK(restored);
    FakeMachine again(*std::move(restored));
    expect_same_memory(machine, again);
    const std::string text = *read_file(path, 64U << 20);
    EXPECT_EQ(text.substr(0, 12288), std::string(12288, '\xAA'));
    EXPECT_EQ(text.substr(12288 + size), std::string(8192, '\xBB'));
}

TEST_F(RoundTrip, MetadataComesBackAndHasALimit) {
    FakeMachine machine;
    WriteOptions options;
    options.metadata = R"({"purpose":"test"})";
    ASSERT_OK(write_snapshot(machine, area(), options));
    const auto metadata = read_metadata(area());
    ASSERT_OK(metadata);
    EXPECT_EQ(*metadata, options.metadata);
    options.metadata.assign((64U << 10) + 1, ' ');
    EXPECT_EQ(write_snapshot(machine, area(), options).error().kind(), ErrorKind::usage);
    EXPECT_EQ(machine.thaws, 1) << "refused before the freeze";
}

TEST_F(RoundTrip, KeepFrozenLeavesTheMachineStopped) {
    FakeMachine machine;
    WriteOptions options;
    options.keep_frozen = true;
    ASSERT_OK(write_snapshot(machine, area(), options));
    EXPECT_EQ(machine.frozen, 1);
}

// A machine that was restored from a damaged snapshot must not write the damaged data with a right
// checksum.
TEST_F(RoundTrip, DamageIsHandedOnWithItsOldChecksum) {
    FakeMachine machine;
    populate(machine);
    ASSERT_OK(write_snapshot(machine, area("a"), {}));
    const AreaLayout layout = *AreaLayout::of(machine.config().blocks(), 1, 1);
    {
        const UniqueFd fd = *open_file(area("a").path, O_RDWR);
        const std::byte odd{0x5A};
        ASSERT_OK(
            write_all_at(fd.get(), std::span(&odd, 1), layout.slots[0].data_offsets[0] + 5 * kPageSize + 77, "a"));
    }
    auto restored = open_snapshot(area("a"));
    ASSERT_OK(restored);
    FakeMachine again(*std::move(restored));
    ASSERT_OK(write_snapshot(again, area("c"), {}));
    const auto report = verify_area(area("c"));
    ASSERT_OK(report);
    EXPECT_EQ(report->fault_count, 1U);
}

TEST_F(RoundTrip, BothBackendsAndCachePoliciesWriteTheSame) {
    FakeMachine machine;
    populate(machine);
    ASSERT_OK(write_snapshot(machine, area("a"), {}));
    for (const io::EngineKind backend : {io::EngineKind::uring, io::EngineKind::threads}) {
        for (const CachePolicy cache : {CachePolicy::cached, CachePolicy::direct}) {
            WriteOptions options;
            options.engine = backend;
            options.cache = cache;
            const AreaPath path =
                area("b" + std::to_string(static_cast<int>(backend)) + std::to_string(static_cast<int>(cache)));
            const auto report = write_snapshot(machine, path, options);
            ASSERT_OK(report);
            EXPECT_EQ(report->backend, backend == io::EngineKind::uring ? "io_uring" : "threads");
            const auto differences = compare_snapshots(area("a"), path);
            ASSERT_OK(differences);
            EXPECT_TRUE(differences->empty()) << differences->front();
        }
    }
}

}  // namespace
}  // namespace snapvm::test
