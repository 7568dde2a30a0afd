// SPDX-License-Identifier: Apache-2.0
// Damages an area: every flipped byte that matters must be noticed, and so must every truncation
// and every version that is not ours.
#include <unistd.h>

#include <fstream>
#include <set>

#include "snapshot/area/reader.h"
#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/support/paths.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/base/bytes.h"
#include "vmm/base/crc32c.h"

namespace snapvm::test {
namespace {

class Corruption : public SnapshotTest {
protected:
    void SetUp() override {
        make_folder(std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path());
        machine_.fill(BlockId::ram_low, 1, 1);
        machine_.fill(BlockId::ram_low, 100, 1);
        machine_.clear(BlockId::ram_low, 101);
    }
    void write(std::uint32_t slots, int times) {
        std::filesystem::remove(area().path);
        for (int i = 0; i < times; ++i) {
            machine_.fill(BlockId::ram_low, 1, static_cast<std::uint64_t>(i));
            ASSERT_OK(write_snapshot(machine_, area(), with_slots(slots)));
        }
        fd_ = *open_file(area().path, O_RDWR);
    }
    void flip(std::uint64_t offset, std::byte mask) const {
        std::byte value{};
        ASSERT_OK(read_exactly_at(fd_.get(), std::span(&value, 1), offset, "area"));
        value ^= mask;
        ASSERT_OK(write_all_at(fd_.get(), std::span(&value, 1), offset, "area"));
    }
    [[nodiscard]] Superblock superblock(std::size_t index) const {
        std::array<std::byte, kSlotsStart> bytes;
        EXPECT_TRUE(read_exactly_at(fd_.get(), bytes, 0, "area").has_value());
        return *Superblock::decode(std::span(bytes).subspan(index * kSuperblockSize, kSuperblockSize), "superblock");
    }
    [[nodiscard]] bool verify_notices() const {
        const auto report = verify_area(area());
        return !report || report->fault_count > 0;
    }

    FakeMachine machine_{2ULL << 20};
    UniqueFd fd_;
};

// With one slot after one and after two snapshots, and with two slots, no byte of either superblock
// may change unnoticed.
TEST_F(Corruption, EveryByteOfBothSuperblocksIsNoticed) {
    for (const auto& [slots, times] : {std::pair{1U, 1}, {1U, 2}, {2U, 2}, {2U, 3}}) {
        write(slots, times);
        for (std::uint64_t offset = 0; offset < kSlotsStart; ++offset) {
            const std::byte mask = static_cast<std::byte>(1U << offset % 8);
            flip(offset, mask);
            const auto restored = open_snapshot(area());
            const bool older = offset / kSuperblockSize == static_cast<std::uint64_t>(times) % 2;
            const bool in_table = offset % kSuperblockSize >= kSuperblockHeaderSize;
            const std::string place = "slots " + std::to_string(slots) + " times " + std::to_string(times) +
                                      " offset " + std::to_string(offset);
            ASSERT_EQ(restored.has_value(), slots == 2 && older && in_table) << place;
            const std::string said = restored ? restored->lost : restored.error().message();
            ASSERT_NE(said, "") << place;
            ASSERT_EQ(said.find('\n'), std::string::npos);
            if (offset % 64 == 0) {
                ASSERT_TRUE(verify_notices()) << offset;
                (void)inspect_area(area());
            }
            flip(offset, mask);
        }
        ASSERT_OK(open_snapshot(area()));
    }
}

TEST_F(Corruption, EveryByteThatARestoreReadsIsNoticedByIt) {
    write(1, 1);
    const Superblock sb = superblock(0);
    for (const SectionKind kind : {SectionKind::start, SectionKind::plan, SectionKind::state}) {
        const Section& section = *sb.find(kind);
        for (std::uint64_t at = 0; at < section.length; ++at) {
            flip(section.offset + at, std::byte{0x80});
            ASSERT_FALSE(open_snapshot(area()).has_value()) << name_of(kind) << " byte " << at;
            flip(section.offset + at, std::byte{0x80});
        }
    }
    ASSERT_OK(open_snapshot(area()));
}

TEST_F(Corruption, EverySectionAndPageIsNoticedByVerify) {
    write(1, 1);
    ASSERT_FALSE(verify_notices());
    for (const Section& section : superblock(0).sections) {
        // Flips each seventh byte of small sections, each 37th of large ones, and one byte of each
        // data page, at a place that moves.
        const std::uint64_t step = section.kind == SectionKind::data ? kPageSize + 1 : section.length > 8192 ? 37 : 7;
        for (std::uint64_t at = 0; at < section.length; at += step) {
            flip(section.offset + at, std::byte{0x01});
            ASSERT_TRUE(verify_notices()) << name_of(section.kind) << " byte " << at;
            flip(section.offset + at, std::byte{0x01});
        }
    }
    ASSERT_FALSE(verify_notices());
}

TEST_F(Corruption, EntriesAreNotBelievedByTheNextSnapshot) {
    write(1, 1);
    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    flip(superblock(0).find(SectionKind::entries, static_cast<std::uint32_t>(BlockId::ram_low))->offset + 8,
         std::byte{2});
    FakeMachine again(*std::move(restored));
    const auto report = write_snapshot(again, area("next"), {});
    ASSERT_FALSE(report.has_value());
    EXPECT_NE(report.error().message().find("page entries"), std::string::npos);
    EXPECT_EQ(again.frozen, 0);
}

TEST_F(Corruption, DamagedOldEntriesLeaveNoOldBytes) {
    write(1, 1);
    flip(superblock(0).find(SectionKind::entries, static_cast<std::uint32_t>(BlockId::ram_low))->offset + 8,
         std::byte{2});
    FakeMachine empty(2ULL << 20);
    ASSERT_OK(write_snapshot(empty, area(), {}));
    EXPECT_FALSE(verify_notices());
}

TEST_F(Corruption, EveryTruncationIsNoticed) {
    write(1, 1);
    const Superblock sb = superblock(0);
    std::set<std::uint64_t> sizes = {0, 1, 511, 512, 4095, 4096, 8191, 8192, sb.area_size - 1, sb.area_size - 4096};
    for (const Section& section : sb.sections) {
        sizes.insert({section.offset, section.offset + section.length / 2, section.offset + section.capacity - 1});
    }
    for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
        ASSERT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(*size)), 0);
        const auto restored = open_snapshot(area());
        ASSERT_FALSE(restored.has_value()) << *size;
        EXPECT_EQ(restored.error().kind(), ErrorKind::invalid);
        ASSERT_TRUE(verify_notices()) << *size;
        (void)inspect_area(area());
        if (*size >= kSlotsStart) {
            const auto report = write_snapshot(machine_, area(), {});
            ASSERT_FALSE(report.has_value());
            EXPECT_NE(report.error().message().find("truncated"), std::string::npos);
        }
    }
}

TEST_F(Corruption, ANewerVersionIsNamed) {
    write(1, 1);
    for (const std::uint64_t offset : {8U, 10U}) {  // major, minor
        flip(offset, std::byte{0x40});
        for (const std::string& message :
             {open_snapshot(area()).error().message(), inspect_area(area()).error().message(),
              verify_area(area()).error().message(), write_snapshot(machine_, area(), {}).error().message()}) {
            EXPECT_NE(message.find(offset == 8 ? "version 65.0" : "version 1.64"), std::string::npos) << message;
            EXPECT_NE(message.find("version 1.0"), std::string::npos) << message;
        }
        flip(offset, std::byte{0x40});
    }
}

// Correct checksums do not make invalid contents acceptable.
TEST_F(Corruption, WellSignedNonsenseIsRefused) {
    write(1, 1);
    const Superblock good = superblock(0);
    const auto put = [&](Superblock sb) {
        const std::vector<std::byte> table = sb.encode_table();
        sb.table_crc = crc32c(table);
        ASSERT_OK(write_all_at(fd_.get(), sb.encode_header(), 0, "area"));
        ASSERT_OK(write_all_at(fd_.get(), table, kSuperblockHeaderSize, "area"));
    };
    const auto refused = [&](const std::function<void(Superblock&)>& change) {
        Superblock bad = good;
        change(bad);
        put(bad);
        const bool rejected = !open_snapshot(area()).has_value();
        (void)inspect_area(area());
        (void)verify_area(area());
        put(good);
        return rejected;
    };
    ASSERT_FALSE(refused([](Superblock&) {}));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.slots = 3; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.slot = 1; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.cpus = 2; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.area_size += 4096; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.slot_offset = 0; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.slot_size = ~std::uint64_t{4095}; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.memory_bytes *= 2; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.machine_id.bytes[0] ^= 1; }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.sections.clear(); }));
    EXPECT_TRUE(refused([](Superblock& sb) { sb.sections.push_back(sb.sections[0]); }));
    for (std::size_t i = 0; i < good.sections.size(); ++i) {
        EXPECT_TRUE(refused([&](Superblock& sb) {
            sb.sections.erase(sb.sections.begin() + static_cast<std::ptrdiff_t>(i));
        })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].kind = static_cast<SectionKind>(77); })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].offset += 1; })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].offset = 4096; })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) {
            sb.sections[i].offset = sb.sections[(i + 1) % sb.sections.size()].offset;
        })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].offset = ~std::uint64_t{4095}; })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].length = sb.sections[i].capacity + 1; })) << i;
        EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].block ^= 64; })) << i;
        if (good.sections[i].length == 0) {
            EXPECT_TRUE(refused([&](Superblock& sb) { sb.sections[i].crc = 1; })) << i;
        }
    }
}

// The newest snapshot does not depend on the older one's section table, and the header says which
// of them is the older one.
TEST_F(Corruption, ADamagedTableOfTheOlderSnapshotIsPassedOver) {
    write(2, 3);  // the newest is in slot 0
    const std::string id = superblock(1).snapshot_id.text();
    EXPECT_EQ(open_snapshot(area())->lost, "");
    flip(kSuperblockSize + kSuperblockHeaderSize + 8, std::byte{1});
    const auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    EXPECT_EQ(restored->slot, 0U);
    EXPECT_NE(restored->lost.find("superblock 1 has a section table with a wrong checksum"), std::string::npos);
    EXPECT_NE(restored->lost.find("snapshot " + id), std::string::npos) << restored->lost;
    const auto info = inspect_area(area());
    ASSERT_OK(info);
    EXPECT_EQ(info->problem, "");
    EXPECT_EQ(info->chosen, 0U);
    EXPECT_EQ(info->lost, restored->lost);
    EXPECT_NE(to_text(*info).find("warning       " + info->lost), std::string::npos);
    EXPECT_NE(to_json(*info).find("\"lost\":\""), std::string::npos);
    const auto verified = verify_area(area());
    ASSERT_OK(verified);
    EXPECT_EQ(verified->fault_count, 1U);
    EXPECT_EQ(verified->snapshots, 1U);
    EXPECT_GT(verified->pages, 0U);

    FakeMachine old(*open_snapshot(area()));
    const auto report = write_snapshot(machine_, area(), {});
    ASSERT_OK(report);
    EXPECT_EQ(report->slot, 1U);
    EXPECT_EQ(report->lost, restored->lost);
    EXPECT_NE(to_json(*report).find("\"lost\":\""), std::string::npos);
    EXPECT_FALSE(verify_notices());
    EXPECT_EQ(open_snapshot(area())->lost, "");
}

// A restore must not fall back to an older snapshot unasked.
TEST_F(Corruption, ADamagedTableOfTheNewestSnapshotIsNot) {
    write(2, 3);
    flip(kSuperblockHeaderSize + 8, std::byte{1});
    EXPECT_EQ(open_snapshot(area()).error().kind(), ErrorKind::invalid);
    EXPECT_NE(inspect_area(area())->problem, "");
    EXPECT_EQ(open_snapshot(area(), {.salvage = true})->slot, 1U);
    const auto report = write_snapshot(machine_, area(), {});
    ASSERT_OK(report);
    EXPECT_EQ(report->slot, 0U);
    EXPECT_EQ(report->sequence, 6U + 2U) << "above all before, the damaged one's included";
    EXPECT_NE(report->lost, "");
}

TEST_F(Corruption, SalvageTakesTheGoodSuperblock) {
    write(2, 2);
    flip(kSuperblockSize + 30, std::byte{1});
    EXPECT_FALSE(open_snapshot(area()).has_value());
    const auto older = open_snapshot(area(), {.salvage = true});
    ASSERT_OK(older);
    EXPECT_EQ(older->slot, 0U);
    // With one slot the other superblock is never that of an older complete snapshot, so salvage
    // cannot give a mixture.
    write(1, 2);
    flip(kSuperblockSize + 30, std::byte{1});
    EXPECT_EQ(open_snapshot(area(), {.salvage = true}).error().kind(), ErrorKind::incomplete);
    ASSERT_OK(write_snapshot(machine_, area(), {}));
    ASSERT_OK(open_snapshot(area()));
}

// FORMAT.md suffices to read an area: a reader that was written from it alone agrees with this one.
TEST_F(Corruption, SecondReaderAgrees) {
    if (std::system("python3 -c 'pass' >/dev/null 2>&1") != 0) {
        GTEST_SKIP() << "python3 is not installed";
    }
    for (const std::uint32_t slots : {1U, 2U}) {
        write(slots, 2);
        const auto info = inspect_area(area());
        ASSERT_OK(info);
        const std::string json = area("inspect.json").path;
        std::ofstream(json) << to_json(*info) << "\n";
        const std::string reader = "python3 " + source_folder() + "/tests/corruption/second_reader.py ";
        EXPECT_EQ(std::system((reader + area().path + " --compare " + json).c_str()), 0);
        flip(superblock(info->chosen.value()).find(SectionKind::data, 1)->offset + kPageSize, std::byte{1});
        EXPECT_NE(std::system((reader + area().path + " 2>/dev/null >/dev/null").c_str()), 0);
    }
}

}  // namespace
}  // namespace snapvm::test
