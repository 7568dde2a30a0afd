// SPDX-License-Identifier: Apache-2.0
// Pages with the same contents have one copy in memory. The tests check which pages are mapped onto
// which, and that the guest sees no difference.
#include "snapshot/restore/share.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "snapshot/format/page_entry.h"
#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "snapshot/restore/detach.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/base/crc32c.h"
#include "vmm/memory/population.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;
constexpr BlockId kFirmware = BlockId::firmware;
constexpr std::uint64_t kSource = 10;
constexpr std::uint64_t kPages = (8ULL << 20) / kPageSize;
constexpr RestoreOptions kShare{.share = true};

/// Returns what is mapped at a host address, from /proc/self/maps.
struct MappedAt {
    std::string path;
    std::uint64_t offset = 0;
};
MappedAt mapped_at(const std::byte* address) {
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        std::uint64_t offset = 0;
        char dash = 0;
        std::string mode;
        std::string device;
        std::string inode;
        MappedAt at;
        std::istringstream(line) >> std::hex >> from >> dash >> to >> mode >> offset >> device >> inode >> at.path;
        if (from <= wanted && wanted < to) {
            at.offset = offset + (wanted - from);
            return at;
        }
    }
    return {};
}

class Share : public SnapshotTest {
protected:
    void copy(BlockId from, std::uint64_t page, BlockId to, std::uint64_t to_page, std::uint64_t count) {
        std::memcpy(machine_.block(to).host() + to_page * kPageSize, machine_.block(from).page(page).data(),
                    count * kPageSize);
        machine_.block(to).marks().mark(to_page, count);
    }
    /// Pages kSource and on, `count` of them, each its own; and the machine's snapshot.
    void fill_source(std::uint64_t count) {
        for (std::uint64_t i = 0; i < count; ++i) {
            machine_.fill(kLow, kSource + i, 1);
        }
    }
    void write() { ASSERT_OK(write_snapshot(machine_, area(), with_slots(1))); }
    /// 64 pages, and at 200 the same again.
    void write_one_run() {
        fill_source(64);
        copy(kLow, kSource, kLow, 200, 64);
        write();
    }

    RestoredSnapshot open(const RestoreOptions& options) {
        auto restored = open_snapshot(area(), options);
        EXPECT_TRUE(ok(restored));
        return *std::move(restored);
    }
    static std::byte* at(FakeMachine& machine, std::uint64_t page, BlockId block = kLow) {
        return machine.block(block).host() + page * kPageSize;
    }
    [[nodiscard]] Superblock superblock() const {
        const auto info = inspect_area(area());
        return *info->superblocks[*info->chosen].valid;
    }
    [[nodiscard]] Section section(SectionKind kind, BlockId block = kLow) const {
        const bool of_a_block = kind == SectionKind::entries || kind == SectionKind::data;
        return *superblock().find(kind, of_a_block ? static_cast<std::uint32_t>(block) : 0);
    }
    /// Whether a page of a restored machine is mapped onto the data of another.
    ::testing::AssertionResult stands_on(FakeMachine& machine, std::uint64_t page, std::uint64_t source,
                                         BlockId block = kLow, BlockId source_block = kLow) {
        const MappedAt found = mapped_at(at(machine, page, block));
        const std::uint64_t wanted = section(SectionKind::data, source_block).offset + source * kPageSize;
        return found.path == area().path && found.offset == wanted
                   ? ::testing::AssertionSuccess()
                   : ::testing::AssertionFailure() << "page " << page << " is mapped onto offset " << found.offset
                                                   << " of " << found.path << ", not " << wanted;
    }
    /// Changes bytes of a section and corrects all checksums over them, so that a snapshot is
    /// well-formed and wrong.
    void forge(const Section& where, std::uint64_t offset, std::span<const std::byte> bytes) const {
        const UniqueFd fd = *open_file(area().path, O_RDWR);
        ASSERT_OK(write_all_at(fd.get(), bytes, where.offset + offset, "area"));
        const std::uint32_t index = *inspect_area(area())->chosen;
        std::array<std::byte, kSlotsStart> both;
        ASSERT_OK(read_exactly_at(fd.get(), both, 0, "area"));
        for (std::uint64_t i = 0; i < kSuperblockCopies; ++i) {
            auto sb = Superblock::decode(std::span(both).subspan(i * kSuperblockSize, kSuperblockSize), "superblock");
            ASSERT_OK(sb);
            if (i != index) {
                continue;
            }
            Section& section = *std::ranges::find(sb->sections, where);
            std::vector<std::byte> now(section.length);
            ASSERT_OK(read_exactly_at(fd.get(), now, section.offset, "area"));
            section.crc = section.kind == SectionKind::data ? 0 : crc32c(now);
            const std::vector<std::byte> table = sb->encode_table();
            sb->table_crc = crc32c(table);
            ASSERT_OK(write_all_at(fd.get(), sb->encode_header(), i * kSuperblockSize, "area"));
            ASSERT_OK(write_all_at(fd.get(), table, i * kSuperblockSize + kSuperblockHeaderSize, "area"));
        }
    }
    void forge_entry(std::uint64_t page, const PageEntry& entry) const {
        const std::uint64_t word = entry.encode();
        forge(section(SectionKind::entries), page * sizeof word, std::as_bytes(std::span(&word, 1)));
    }
    static PageEntry shares(std::uint64_t page) { return {PageClass::shared, 0, page}; }

    FakeMachine machine_;
};

TEST_F(Share, OneCopyAndTheGuestCannotTell) {
    write_one_run();
    RestoredSnapshot restored = open(kShare);
    EXPECT_EQ(restored.shared_runs, 1U);
    EXPECT_EQ(restored.shared_pages, 64U);
    FakeMachine clone(std::move(restored));
    for (const std::uint64_t i : {0U, 31U, 63U}) {
        EXPECT_TRUE(stands_on(clone, 200 + i, kSource + i));
        EXPECT_TRUE(stands_on(clone, kSource + i, kSource + i));
    }
    for (const std::uint64_t page : {199U, 264U}) {
        EXPECT_TRUE(stands_on(clone, page, page));
    }
    expect_same_memory(machine_, clone);

    RestoredSnapshot plain = open({});
    EXPECT_EQ(plain.shared_runs, 0U);
    FakeMachine other(std::move(plain));
    EXPECT_TRUE(stands_on(other, 200, 200));
    expect_same_memory(clone, other);
}

TEST_F(Share, AWriteStaysPrivate) {
    write_one_run();
    FakeMachine clone(open(kShare));
    FakeMachine other(open(kShare));
    clone.fill(kLow, 210, 99);           // in the run
    clone.fill(kLow, kSource + 5, 98);  // what page 205 stands on
    machine_.fill(kLow, 210, 99);
    machine_.fill(kLow, kSource + 5, 98);
    expect_same_memory(machine_, clone);
    FakeMachine third(open({}));
    expect_same_memory(third, other);
    EXPECT_EQ(std::memcmp(at(other, 205), at(other, kSource + 5), kPageSize), 0);
}

TEST_F(Share, ReadPagesAreStillUntouched) {
    write_one_run();
    FakeMachine clone(open(kShare));
    for (std::uint64_t i = 0; i < 64; ++i) {
        (void)*static_cast<volatile std::byte*>(at(clone, 200 + i));
    }
    *at(clone, 201) = std::byte{7};
    std::vector<Population> seen(64, static_cast<Population>(0xEE));
    ASSERT_OK(PopulationScanner::open()->scan(clone.block(kLow), 200, seen));
    for (std::uint64_t i = 0; i < 64; ++i) {
        EXPECT_EQ(seen[i], i == 1 ? Population::own : Population::untouched) << i;
    }
}

TEST_F(Share, TheLongestRunsWithinTheBudget) {
    fill_source(200);
    copy(kLow, kSource, kLow, 300, 20);
    copy(kLow, kSource + 50, kLow, 400, 40);
    copy(kLow, kSource + 100, kLow, 500, 30);
    copy(kLow, kSource + 150, kLow, 600, 15);  // below 64 KiB
    write();
    for (const auto& [budget, pages] : {std::pair{0U, 0U}, {1U, 40U}, {2U, 70U}, {3U, 90U}, {256U, 90U}}) {
        const RestoredSnapshot restored = open({.share = true, .max_shared_runs = budget});
        EXPECT_EQ(restored.shared_runs, std::min(budget, 3U));
        EXPECT_EQ(restored.shared_pages, pages);
    }
    EXPECT_EQ(open({.share = true, .min_shared_bytes = 15 * kPageSize}).shared_pages, 105U);
    EXPECT_EQ(open({.share = true, .min_shared_bytes = 31 * kPageSize}).shared_pages, 40U);
    FakeMachine clone(open({.share = true, .max_shared_runs = 1}));
    EXPECT_TRUE(stands_on(clone, 400, kSource + 50));
    EXPECT_TRUE(stands_on(clone, 300, 300));
}

// A copy of pages that are in part copies themselves: their entries name pages all over, and it is
// one run all the same.
TEST_F(Share, ARunGoesOnOverPagesThatAreCommonElsewhere) {
    machine_.fill(kLow, 3, 1);
    fill_source(40);
    copy(kLow, 3, kLow, kSource + 20, 1);
    copy(kLow, kSource, kLow, 200, 40);
    write();
    RestoredSnapshot restored = open(kShare);
    EXPECT_EQ(restored.shared_runs, 1U);
    EXPECT_EQ(restored.shared_pages, 40U);
    FakeMachine clone(std::move(restored));
    EXPECT_TRUE(stands_on(clone, 220, kSource + 20));
    expect_same_memory(machine_, clone);
}

// All pages are the same. One half is mapped onto the other, whose pages stay in place.
TEST_F(Share, NothingThatIsStoodOnIsMappedAway) {
    machine_.fill(kLow, 100, 1);
    for (std::uint64_t page = 101; page < 356; ++page) {
        copy(kLow, 100, kLow, page, 1);
    }
    write();
    RestoredSnapshot restored = open(kShare);
    EXPECT_EQ(restored.shared_runs, 1U);
    EXPECT_EQ(restored.shared_pages, 128U);
    FakeMachine clone(std::move(restored));
    for (std::uint64_t i = 0; i < 128; ++i) {
        EXPECT_TRUE(stands_on(clone, 100 + i, 100 + i));
        EXPECT_TRUE(stands_on(clone, 228 + i, 100 + i));
    }
    expect_same_memory(machine_, clone);
}

TEST_F(Share, FromOneBlockToAnother) {
    fill_source(32);
    // One after the other by number, in two blocks: two runs.
    copy(kLow, kSource, kLow, kPages - 16, 16);
    copy(kLow, kSource + 16, kFirmware, 0, 16);
    write();
    RestoredSnapshot restored = open(kShare);
    EXPECT_EQ(restored.shared_runs, 2U);
    EXPECT_EQ(restored.shared_pages, 32U);
    FakeMachine clone(std::move(restored));
    EXPECT_TRUE(stands_on(clone, kPages - 1, kSource + 15));
    EXPECT_TRUE(stands_on(clone, 15, kSource + 31, kFirmware));
    expect_same_memory(machine_, clone);
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    expect_same_memory(machine_, clone);
}

TEST_F(Share, TheNextSnapshotIsTheSame) {
    write_one_run();
    FakeMachine clone(open(kShare));
    ASSERT_OK(write_snapshot(clone, area("next"), {}));
    const auto differences = compare_snapshots(area(), area("next"));
    ASSERT_OK(differences);
    EXPECT_TRUE(differences->empty()) << differences->front();
    EXPECT_EQ(verify_area(area("next"))->fault_count, 0U);
}

TEST_F(Share, DetachTakesWhatTheGuestSees) {
    write_one_run();
    // In its own place page 210 says something else: the guest sees what it is mapped onto, before
    // and after.
    const std::byte odd{0x5A};
    forge(section(SectionKind::data), 210 * kPageSize + 7, std::span(&odd, 1));
    EXPECT_EQ(verify_area(area())->fault_count, 1U);
    FakeMachine clone(open(kShare));
    clone.fill(kLow, 220, 5);
    machine_.fill(kLow, 220, 5);
    expect_same_memory(machine_, clone);
    ASSERT_OK(detach_snapshot(clone, clone.mutable_memory()));
    expect_same_memory(machine_, clone);
    // A machine that does not share sees its own place's contents, and the damage is found.
    FakeMachine plain(open({}));
    EXPECT_EQ(*(at(plain, 210) + 7), odd);
    EXPECT_TRUE(fails(detach_snapshot(plain, plain.mutable_memory()), ErrorKind::invalid, "page 210 "));
}

// A shared page has no checksum in the area. Its damage must not get one from the next snapshot.
TEST_F(Share, DamageOfASharedPageIsHandedOn) {
    fill_source(64);
    copy(kLow, kSource, kLow, 200, 64);
    copy(kLow, kSource, kFirmware, 3, 1);
    write();
    const auto next_is_damaged = [&](const RestoreOptions& options, std::uint64_t faults) {
        FakeMachine clone(open(options));
        std::filesystem::remove(area("next").path);
        ASSERT_OK(write_snapshot(clone, area("next"), {}));
        const auto report = verify_area(area("next"));
        EXPECT_EQ(report->fault_count, faults) << testing::PrintToString(report->faults);
    };
    next_is_damaged({}, 0);
    const std::byte odd{0x5A};
    forge(section(SectionKind::data), 210 * kPageSize + 7, std::span(&odd, 1));
    next_is_damaged({}, 1);
    next_is_damaged(kShare, 0);  // the guest does not see the page's own place
    forge(section(SectionKind::data, kFirmware), 3 * kPageSize + 7, std::span(&odd, 1));
    next_is_damaged({}, 2);
    // A page that reads as zeros is damaged, too, and is not one of class zero.
    const std::vector<std::byte> zeros(kPageSize);
    forge(section(SectionKind::data), 210 * kPageSize, zeros);
    next_is_damaged({}, 2);
    // The page that others repeat.
    forge(section(SectionKind::data), (kSource + 20) * kPageSize + 7, std::span(&odd, 1));
    next_is_damaged({}, 3);
    next_is_damaged(kShare, 2);  // the single page of the firmware's block is no run, and is in its own place
}

TEST_F(Share, AForgedNameEndsTheNextSnapshot) {
    write_one_run();
    forge_entry(210, shares(199));  // absent
    FakeMachine clone(open({}));
    EXPECT_TRUE(fails(write_snapshot(clone, area("next"), {}), ErrorKind::invalid, "names page 199"));
    forge_entry(210, shares(1ULL << 39));
    FakeMachine other(open({}));
    EXPECT_TRUE(fails(write_snapshot(other, area("next"), {}), ErrorKind::invalid, "a shared page names page"));
}

TEST_F(Share, ForgedEntriesAreRefused) {
    machine_.clear(kLow, 100);
    fill_source(64);
    copy(kLow, kSource, kLow, 130, 16);
    copy(kLow, kSource, kLow, 200, 64);
    write();
    const std::uint64_t original = 200 + 3;
    const std::uint64_t all =
        section(SectionKind::entries).length / 8 + section(SectionKind::entries, kFirmware).length / 8 + 1;
    const PageEntry bad[] = {shares(original),     // itself
                             shares(original + 1),  // a higher one
                             shares(all + 5),       // none at all
                             shares((1ULL << 40) - 1),
                             shares(5),      // an absent one
                             shares(100),   // a zero one
                             shares(202),   // one that shares itself
                             shares(133)};  // the same, though it holds the same data
    for (const PageEntry& entry : bad) {
        forge_entry(original, entry);
        const auto refused = open_snapshot(area(), kShare);
        EXPECT_TRUE(fails(refused, ErrorKind::invalid, "the entry of page 203 of block ram-low"));
        EXPECT_EQ(refused ? "" : refused.error().message().substr(0, area().path.size()), area().path);
        EXPECT_GT(verify_area(area())->fault_count, 0U) << entry.shares;
        ASSERT_OK(open_snapshot(area()));  // does not read them
    }
    const std::uint64_t unknown = 77;
    forge(section(SectionKind::entries), original * 8, std::as_bytes(std::span(&unknown, 1)));
    EXPECT_TRUE(fails(open_snapshot(area(), kShare), ErrorKind::invalid, "the entry of page 203 of block ram-low"));
    forge_entry(original, shares(kSource + 3));
    EXPECT_EQ(open(kShare).shared_pages, 80U);
    EXPECT_EQ(verify_area(area())->fault_count, 0U);
}

TEST_F(Share, DamagedEntriesAreNotBelieved) {
    write_one_run();
    const UniqueFd fd = *open_file(area().path, O_RDWR);
    const std::byte odd{0x5A};
    ASSERT_OK(write_all_at(fd.get(), std::span(&odd, 1), section(SectionKind::entries).offset + 9, "area"));
    EXPECT_TRUE(fails(open_snapshot(area(), kShare), ErrorKind::invalid, "wrong checksum"));
    ASSERT_OK(open_snapshot(area()));
}

// The plan of a damaged snapshot may cover pages with data. Whatever it says, sharing changes
// nothing in it.
TEST_F(Share, AnOverlayWins) {
    constexpr std::uint64_t kUnit = kHugePageSize / kPageSize;
    fill_source(64);
    copy(kLow, kSource, kLow, kUnit - 20, 40);  // half of it in the second unit
    copy(kLow, kSource, kLow, 2 * kUnit, 30);
    write();
    for (const std::uint64_t covered : {std::uint64_t{1}, std::uint64_t{0}}) {
        std::vector<std::byte> plan = encode_plan(std::vector<PlanRun>{{kLow, covered * kUnit, kUnit}});
        plan.resize(section(SectionKind::plan).length);
        forge(section(SectionKind::plan), 0, plan);
        RestoreOptions options{.max_overlays = 8, .min_overlay_bytes = kHugePageSize};
        FakeMachine plain(open(options));
        options.share = true;
        RestoredSnapshot restored = open(options);
        EXPECT_EQ(restored.overlays, 1U);
        FakeMachine clone(std::move(restored));
        EXPECT_EQ(mapped_at(at(clone, covered * kUnit)).path, "");
        if (covered == 1) {
            EXPECT_TRUE(stands_on(clone, kUnit - 1, kSource + 19));
        }
        // The second: what is under the overlay is stood on all the same, by the file's data.
        EXPECT_TRUE(stands_on(clone, 2 * kUnit, kSource));
        expect_same_memory(plain, clone);
    }
}

}  // namespace
}  // namespace snapvm::test
